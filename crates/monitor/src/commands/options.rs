//! What `blockdev-add` and `device_add` take, described from the tables of what can be declared.

use std::borrow::Cow;
use std::collections::BTreeMap;

use lunar_host::catalog::{BLOCK_DRIVERS, BlockDriver, BlockKind, FAULT, PLAIN_LIMITS};
use lunar_host::property::{Kind as Values, Property};

use crate::schema::{Definition, Described, Kind, Member, Object, Type, Variants};

/// The arguments of `device_add`. Beside these there are the properties of the device, for which the host has the
/// words: `device-list-properties` lists them.
pub fn device() -> Definition {
    let member = |name: &'static str, optional| Member {
        name: name.into(),
        kind: Type::Str,
        optional,
    };
    Definition {
        name: "DeviceOptions".into(),
        kind: Kind::Object(Object {
            members: vec![
                member("driver", false),
                member("bus", true),
                member("id", true),
            ],
            variants: None,
            open: true,
        }),
    }
}

/// The arguments of `blockdev-add`.
pub fn blockdev() -> Definition {
    let drivers = BLOCK_DRIVERS.iter().map(|driver| driver.name.into());
    Definition {
        name: "BlockdevOptions".into(),
        kind: Kind::Object(Object {
            members: vec![Member {
                name: "driver".into(),
                kind: Type::Made(Box::new(Definition {
                    name: "BlockdevDriver".into(),
                    kind: Kind::Enum(drivers.collect()),
                })),
                optional: false,
            }],
            variants: Some(Variants {
                tag: "driver",
                cases: BLOCK_DRIVERS
                    .iter()
                    .map(|driver| (driver.name.into(), of_driver(driver)))
                    .collect(),
            }),
            open: false,
        }),
    }
}

/// A node below another: its name, or its own options.
fn reference() -> Definition {
    Definition {
        name: "BlockdevRef".into(),
        kind: Kind::Alternate(vec![Type::Named(blockdev), Type::Str]),
    }
}

fn of_driver(driver: &BlockDriver) -> Definition {
    let name = format!("BlockdevOptions {}", driver.name);
    let tables = driver.tables();
    let mut members = Vec::new();
    // `cache.direct` is a member of `cache`.
    let mut nested: BTreeMap<&str, Vec<Member>> = BTreeMap::new();
    for row in tables.into_iter().flatten() {
        match row.name.split_once('.') {
            Some((outer, inner)) => nested.entry(outer).or_default().push(Member {
                name: inner.into(),
                kind: of_property(&name, row),
                optional: true,
            }),
            None => members.push(Member {
                name: row.name.into(),
                kind: of_property(&name, row),
                optional: !matches!(row.name, "file" | "filename" | "image" | "throttle-group"),
            }),
        }
    }
    if driver.kind == BlockKind::Blkdebug {
        members.push(Member {
            name: "inject-error".into(),
            kind: Type::Array(Box::new(Type::Named(fault))),
            optional: true,
        });
    }
    for (outer, inner) in nested {
        members.push(Member {
            name: outer.into(),
            kind: Type::Made(Box::new(Definition {
                name: format!("{name} {outer}").into(),
                kind: Kind::Object(Object {
                    members: inner,
                    ..Object::default()
                }),
            })),
            optional: true,
        });
    }
    Definition {
        name: name.into(),
        kind: Kind::Object(Object {
            members,
            ..Object::default()
        }),
    }
}

/// A rule of a `blkdebug` node.
fn fault() -> Definition {
    let name = "BlkdebugInjectErrorOptions";
    plain(name, FAULT)
}

/// An object whose members are the rows of a table.
fn plain<T>(name: &'static str, rows: &[Property<T>]) -> Definition {
    let member = |row: &Property<T>| Member {
        name: row.name.into(),
        kind: of_property(name, row),
        optional: true,
    };
    Definition {
        name: name.into(),
        kind: Kind::Object(Object {
            members: rows.iter().map(member).collect(),
            ..Object::default()
        }),
    }
}

/// The arguments of `blockdev-reopen`.
pub fn reopen() -> Definition {
    Definition {
        name: "BlockdevReopen".into(),
        kind: Kind::Object(Object {
            members: vec![Member {
                name: "options".into(),
                kind: Type::Array(Box::new(Type::Named(blockdev))),
                optional: false,
            }],
            ..Object::default()
        }),
    }
}

/// The limits of a throttle group.
pub fn limits() -> Definition {
    plain("ThrottleLimits", PLAIN_LIMITS)
}

/// The arguments of `object-add`. Beside these there are the `x-` spellings of the limits, which the host judges.
pub fn object() -> Definition {
    let member = |name: &'static str, kind, optional| Member {
        name: name.into(),
        kind,
        optional,
    };
    Definition {
        name: "ObjectOptions".into(),
        kind: Kind::Object(Object {
            members: vec![
                member("qom-type", Type::Str, false),
                member("id", Type::Str, false),
                member("limits", Type::Named(limits), true),
                member("poll-max-ns", u64::describe(), true),
                member("cpus", Type::Str, true),
            ],
            variants: None,
            open: true,
        }),
    }
}

fn of_property<T>(owner: &str, row: &Property<T>) -> Type {
    let words = |words: Vec<Cow<'static, str>>| {
        Type::Made(Box::new(Definition {
            name: format!("{owner} {}", row.name).into(),
            kind: Kind::Enum(words),
        }))
    };
    match &row.kind {
        _ if matches!(row.name, "file" | "image") => Type::Named(reference),
        Values::Bool(_) => Type::Bool,
        Values::Size(..) | Values::U64(..) => u64::describe(),
        Values::U16(..) => u16::describe(),
        Values::U32(..) => u32::describe(),
        Values::Choose(..) => i64::describe(),
        Values::Text(_) | Values::Form(..) => Type::Str,
        Values::OnOffAuto(_) => words(vec!["on".into(), "off".into(), "auto".into()]),
        Values::Word(choices) => words(choices.iter().map(|(word, _)| (*word).into()).collect()),
    }
}
