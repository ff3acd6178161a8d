//! A disk that one guest reaches by two paths, under Debian's multipath tools.

use std::fs::File;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::shared::Shared;
use super::{Figures, Lab, PRELUDE};
use crate::qemu::{Job, Machine, Outcome, Running};
use crate::scratch::Scratch;

/// The guest waits for its own programs most of the time, and those are many.
const PATIENCE: Duration = Duration::from_secs(300);

/// What `mpathconf` writes, and that keys are kept; paths are looked at more often than a test wants to wait.
const SETUP: &str = r#"
mkdir -p /etc/multipath
cat >/etc/multipath.conf <<END
defaults {
	user_friendly_names yes
	find_multipaths yes
	reservation_key file
	polling_interval 1
	max_polling_interval 1
}
END
for module in dm-multipath dm-service-time dm-round-robin scsi_dh_alua; do modprobe $module; done
/lib/systemd/systemd-udevd --daemon 2>/dev/null
udevadm trigger --action=add --subsystem-match=block
udevadm settle
multipathd
map=/dev/mapper/mpatha
for try in $(seq 200); do
	[ -e $map ] && break
	sleep 0.1
done

# Which name a path gets depends on who is found first.
link_luns
left=$(basename $(readlink /dev/lun/0:0:0:0))
right=$(basename $(readlink /dev/lun/1:0:0:0))

# Waits until a path is in this state of device mapper's and of the checker's.
path_is() {
	for try in $(seq 200); do
		multipathd show paths format '%d %t %T' 2>/dev/null | grep -q "^$1 *$2 *$3" && return
		sleep 0.1
	done
	echo "$1 is not $2 and $3:"
	multipath -ll
	exit 1
}
# How much has been written through a path.
written() { awk '{ print $7 }' /sys/block/$1/stat; }
# Waits until more is written through a path.
is_used() {
	local from=$(written $1)
	for try in $(seq 200); do
		[ $(written $1) -gt $((from + 80)) ] && return
		sleep 0.1
	done
	echo "$1 is not used:"
	multipath -ll
	exit 1
}
# Waits until the first path is left alone while the second is used. With a third parameter, the state of the first is
# chosen anew each time: the guest's own handler makes a path optimized whenever it turns to it.
rests() {
	for try in $(seq 20); do
		local before=$(written $1)
		is_used $2
		[ $(written $1) != $before ] || return 0
		[ $# -lt 3 ] || sg_stpg --$3 --tp=2 /dev/$2 >/dev/null
	done
	echo "$1 is still used:"
	multipath -ll
	exit 1
}
"#;

/// Writes, and reads again what was written, until it is told to end.
const WRITER: &str = r#"
fio --name=verify --filename=$map --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=4k --size=16M \
	--verify=crc32c --verify_backlog=64 --verify_fatal=1 --rate_iops=200 --time_based --runtime=600 >/tmp/fio 2>&1 &
fio=$!
"#;

/// As it comes, multipath uses one path and keeps the other.
const FAILOVER: &str = r#"
path_is $left active ready
path_is $right active ready
rests $right $left
from=$(now)
# The path that is in use fails: by the answers to what goes on through it.
sg_stpg --unavailable --tp=1 /dev/$right >/dev/null
is_used $right
echo failover=$(($(now) - from))
rests $left $right
sg_stpg --optimized --tp=1 /dev/$right >/dev/null
path_is $left active ready
"#;

/// Both paths in turn, and the same again, until the server takes the disk from one of them altogether.
const ROUND_ROBIN: &str = r#"
sed -i '/^defaults/a path_grouping_policy group_by_prio\npath_selector "round-robin 0"\nfailback immediate' /etc/multipath.conf
multipathd reconfigure >/dev/null
path_is $left active ready
path_is $right active ready
is_used $left
is_used $right
for state in standby unavailable offline; do
	sg_stpg --$state --tp=2 /dev/$left >/dev/null
	rests $right $left $state
	sg_stpg --optimized --tp=2 /dev/$left >/dev/null
	path_is $right active ready
	is_used $right
done
# The server takes the disk from one controller, and gives it back: nobody has to tell the kernel to look.
echo detach
for try in $(seq 200); do
	[ -e /sys/block/$right ] || break
	sleep 0.1
done
[ ! -e /sys/block/$right ]
is_used $left
echo attach
from=$(now)
for try in $(seq 600); do
	[ -e /sys/class/scsi_device/1:0:0:0/device/block ] && break
	sleep 0.1
done
echo back=$(($(now) - from))
link_luns
right=$(basename $(readlink /dev/lun/1:0:0:0))
path_is $right active ready
is_used $right
is_used $left
"#;

/// A run of fio's that was ended by a signal ends with 128, and with more if anything went wrong.
const END: &str = r#"
kill -INT $fio
status=0
wait $fio || status=$?
[ $status = 128 ] || { cat /tmp/fio; exit 1; }
echo verified=$(sed -n 's/.*issued rwts: total=\([0-9]*\),.*/\1/p' /tmp/fio)
if dmesg | grep -E 'dm-0.*error|error.*dm-0|Buffer I/O'; then exit 1; fi
"#;

const PERSIST: &str = r#"
path_is $left active ready
path_is $right active ready
mpathpersist --out --register --param-sark=0x123abc $map
mpathpersist --out --reserve --param-rk=0x123abc --prout-type=5 $map
mpathpersist --in --read-keys $map
mpathpersist --in --read-full-status $map | grep 'Relative port' | sort
mpathpersist --in --read-reservation $map
echo precious | dd of=$map bs=512 count=1 conv=sync oflag=direct 2>/dev/null
for path in $left $right; do
	dd if=$map of=/dev/$path bs=512 count=1 iflag=direct oflag=direct 2>/dev/null
done
mpathpersist --out --release --param-rk=0x123abc --prout-type=5 $map
mpathpersist --out --register --param-rk=0x123abc --param-sark=0 $map
mpathpersist --in --read-keys $map
"#;

pub fn io_moves_to_the_path_that_is_left(lab: &Lab) -> Result<Figures> {
    let script = format!("{SETUP}{WRITER}{FAILOVER}{ROUND_ROBIN}{END}");
    let outcome = run(lab, &script, |shared, guest| {
        guest.wait_for("detach\n")?;
        shared.detach(1)?;
        guest.wait_for("attach\n")?;
        shared.attach_again(1)
    })?;
    Ok(vec![
        format!(
            "{} ms until the other path is used",
            outcome.number("failover")?
        ),
        format!(
            "{} ms until a path that the server has given back is there",
            outcome.number("back")?
        ),
        format!(
            "{} reads verified what was written",
            outcome.number("verified")?
        ),
    ])
}

pub fn mpathpersist_registers_and_reserves_through_both_paths(lab: &Lab) -> Result<Figures> {
    let outcome = run(lab, &format!("{SETUP}{PERSIST}"), |_, _| Ok(()))?;
    let expected = "PR generation=0x2, \t2 registered reservation keys follow:
    0x123abc
    0x123abc
      Relative port address: 0x1
      Relative port address: 0x2
  PR generation=0x2, Reservation follows:
   Key = 0x123abc
  scope = LU_SCOPE, type = Write Exclusive, registrants only
  PR generation=0x4, \t0 registered reservation key.
";
    ensure!(
        outcome.stdout.trim() == expected.trim(),
        "{}",
        outcome.stdout
    );
    Ok(Vec::new())
}

/// Runs a script in a guest that has both paths, each in its own target port group, and does `meanwhile` beside it.
fn run(
    lab: &Lab,
    script: &str,
    meanwhile: impl FnOnce(&Shared, &mut Running) -> Result<()>,
) -> Result<Outcome> {
    let scratch = Scratch::new()?;
    let image = scratch.join("shared.raw");
    File::create(&image)?.set_len(64 << 20)?;
    let shared = Shared::serve(lab, &scratch, &image, [",port_group=1", ",port_group=2"])?;
    let machine = Machine {
        extras: true,
        memory: "768M".to_owned(),
        ..shared.machine_with_both(lab)
    };
    let mut guest = machine.start(&Job::new(&format!("{PRELUDE}{script}"), PATIENCE))?;
    meanwhile(&shared, &mut guest)?;
    let outcome = guest.finish()?.success()?;
    shared.stop()?;
    Ok(outcome)
}
