//! Limits of rate, by whatever names an object has them.

/// The rows of a property table: three for each limit, the average, the burst, and how long that may last, and the size of
/// operations, each name with this in front.
macro_rules! limits {
    ($prefix:literal) => {
        limits! { @rows $prefix;
            iops_total, "iops-total", "operations";
            iops_read, "iops-read", "reads";
            iops_write, "iops-write", "writes";
            bps_total, "bps-total", "bytes";
            bps_read, "bps-read", "bytes read";
            bps_write, "bps-write", "bytes written";
        }
    };
    (@rows $prefix:literal; $($field:ident, $name:literal, $what:literal;)*) => {
        &[
            $(
                $crate::property::Property {
                    name: concat!($prefix, $name),
                    kind: $crate::property::Kind::U64(0..=u64::MAX, |t, v| {
                        ::std::convert::AsMut::<::lunar_block::Limits>::as_mut(t).$field.average = v;
                    }),
                    default: "0, no limit",
                    description: concat!($what, " per second"),
                },
                $crate::property::Property {
                    name: concat!($prefix, $name, "-max"),
                    kind: $crate::property::Kind::U64(0..=u64::MAX, |t, v| {
                        ::std::convert::AsMut::<::lunar_block::Limits>::as_mut(t).$field.burst = v;
                    }),
                    default: "0, no burst",
                    description: concat!($what, " per second in a burst"),
                },
                $crate::property::Property {
                    name: concat!($prefix, $name, "-max-length"),
                    kind: $crate::property::Kind::U64(1..=u64::MAX, |t, v| {
                        ::std::convert::AsMut::<::lunar_block::Limits>::as_mut(t).$field.burst_seconds = v;
                    }),
                    default: "1",
                    description: "how many seconds a burst may last",
                },
            )*
            $crate::property::Property {
                name: concat!($prefix, "iops-size"),
                kind: $crate::property::Kind::U64(0..=u64::MAX, |t, v| {
                    ::std::convert::AsMut::<::lunar_block::Limits>::as_mut(t).iops_size = v;
                }),
                default: "0, one",
                description: "larger operations count as several of this many bytes",
            },
        ]
    };
}

pub(super) use limits;
