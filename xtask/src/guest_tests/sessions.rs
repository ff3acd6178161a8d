//! What libiscsi's suites do in iSCSI sessions of their own, done by one guest over two controllers.
//!
//! On a local device the suites skip these tests; each script below names those whose place it takes. The two
//! controllers are two initiators to one disk, which is `$one` for the first and `$two` for the second.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{EXPECTATIONS, Figures, Lab, PRELUDE};
use crate::qemu::{Job, Machine};
use crate::scratch::Scratch;
use crate::storage::{Server, create, over_two_controllers};

/// How long a job may take: it starts some two hundred programs, one after the other.
const TIME_LIMIT: Duration = Duration::from_secs(400);

/// ProutReserve.Access*, ProutReserve.Ownership*, ProutPreempt.RemoveRegistration, CompareAndWrite.InvalidDataOutSize,
/// MultipathIO.CompareAndWriteAsync.
pub fn two_initiators_share_a_disk_as_reservations_and_comparisons_say(
    lab: &Lab,
) -> Result<Figures> {
    run(lab, &[PERSISTENT_RESERVATIONS, COMPARE_AND_WRITE])
}

/// Reserve6.*, PreventAllow.*, MultipathIO.Reset, Sanitize.*Reserved, Sanitize.Readonly, Sanitize.Reservations,
/// Sanitize.Reset. Of the resets, virtio-scsi knows that of the logical unit and the loss of the nexus.
pub fn a_reset_or_a_lost_initiator_ends_what_it_must_and_no_more(lab: &Lab) -> Result<Figures> {
    run(lab, &[RESETS, SANITIZE])
}

fn run(lab: &Lab, scripts: &[&str]) -> Result<Figures> {
    ensure!(
        lab.server == Server::Lunar,
        "QEMU has no disk with two paths"
    );
    let scratch = Scratch::new()?;
    let path = scratch.join("disk.raw");
    create("raw", &path, "128M")?;
    let storage = over_two_controllers(
        &lab.lunar,
        &scratch,
        &format!(
            "file={},format=raw,if=none,id=drive0,discard=unmap",
            path.display()
        ),
        "scsi-hd,drive=drive0,scsi-id=0,lun=0,removable=on,share-rw=on",
    )?;
    let machine = Machine {
        targets: Some("0".to_owned()),
        ..lab.machine(&storage)
    };
    let script = format!("{PRELUDE}{EXPECTATIONS}{TOOLS}{}", scripts.concat());
    machine
        .start(&Job::new(&script, TIME_LIMIT))?
        .finish()?
        .success()?;
    storage.stop()?;
    Ok(Vec::new())
}

const TOOLS: &str = r#"
one=/dev/sg0 two=/dev/sg1
lun=/sys/class/scsi_device/0:0:0:0
printf manual >/sys/module/scsi_mod/parameters/scan
virtio=$(readlink -f $lun | sed 's,.*/\(virtio[0-9]*\)/.*,\1,')
# The driver lets go of the first controller, and takes it again.
lose_one() { echo $virtio >/sys/bus/virtio/drivers/virtio_scsi/unbind; }
find_one() {
	echo $virtio >/sys/bus/virtio/drivers/virtio_scsi/bind
	local scan
	for scan in /sys/bus/virtio/devices/$virtio/host*/scsi_host/host*/scan; do echo "0 0 0" >$scan; done
	until [ -e $one ]; do sleep 0.05; done
}
head -c 512 /dev/zero | tr '\0' A >/tmp/block
read_block() { sg_raw --request=512 --outfile=/tmp/read $1 28 00 00 00 00 00 00 00 01 00; }
write_block() { sg_raw --send=512 --infile=/tmp/block $1 2a 00 00 00 00 00 00 00 01 00; }
reserve() { sg_raw $1 16 00 00 00 00 00; }
release() { sg_raw $1 17 00 00 00 00 00; }
prevent() { sg_raw $1 1e 00 00 00 01 00; }
allow() { sg_raw $1 1e 00 00 00 00 00; }
eject() { sg_raw $1 1b 00 00 00 02 00; }
load() { sg_raw $1 1b 00 00 00 03 00; }
reset() { sg_reset --no-escalate --device $1; }
"#;

const PERSISTENT_RESERVATIONS: &str = r#"
pr_in() { sg_persist --no-inquiry --in "$@"; }
pr_out() { sg_persist --no-inquiry --out "$@"; }
register_both() {
	ready $one $two
	expect $good pr_out --register-ignore --param-sark=0xa1 $one
	expect $good pr_out --register-ignore --param-sark=0xb2 $two
}
# DEVICE KEY
unregister() { expect $good pr_out --register --param-rk=$2 --param-sark=0 $1; }

# TYPE, the key that is shown, whether another initiator can read and write: one that is registered, one that is not
access() {
	register_both
	expect $good pr_out --reserve --param-rk=0xa1 --prout-type=$1 $one
	says "Key=$2$" pr_in --read-reservation $two
	expect $good read_block $one
	expect $good write_block $one
	expect $3 read_block $two
	expect $4 write_block $two
	unregister $two 0xb2
	expect $5 read_block $two
	expect $6 write_block $two
	expect $good pr_out --release --param-rk=0xa1 --prout-type=$1 $one
	unregister $one 0xa1
}
access 1 0xa1 $good $conflict $good $conflict
access 3 0xa1 $conflict $conflict $conflict $conflict
access 5 0xa1 $good $good $good $conflict
access 6 0xa1 $good $good $conflict $conflict
access 7 0x0 $good $good $good $conflict
access 8 0x0 $good $good $conflict $conflict

# TYPE, and whose the reservation is: does it outlive the registration of the one that made it?
ownership() {
	register_both
	expect $good pr_out --reserve --param-rk=0xa1 --prout-type=$1 $one
	unregister $one 0xa1
	if [ $2 = common ]; then
		says "Key=0x0$" pr_in --read-reservation $one
		expect $good pr_out --release --param-rk=0xb2 --prout-type=$1 $two
	fi
	says "there is NO reservation held" pr_in --read-reservation $one
	ready $two
	unregister $two 0xb2
}
for type in 1 3 5 6; do ownership $type own; done
for type in 7 8; do ownership $type common; done

register_both
says "2 registered" pr_in --read-keys $one
before=$(sed -n 's/.*PR generation=\(0x[0-9a-f]*\).*/\1/p' /tmp/said)
expect $good pr_out --preempt --param-rk=0xb2 --param-sark=0xa1 --prout-type=3 $two
ready $one $two
says "PR generation=$(printf '0x%x' $((before + 1))), 1 registered" pr_in --read-keys $one
grep -q 0xb2 /tmp/said
unregister $two 0xb2
"#;

const COMPARE_AND_WRITE: &str = r#"
ready $one $two
refused sg_raw --send=512 --infile=/dev/zero $one 89 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00
refused sg_raw --send=2048 --infile=/dev/zero $one 89 00 00 00 00 00 00 00 00 00 00 00 00 03 00 00

# Both initiators count in one block.
number() { printf '%-512s' "$1"; }
count() {
	local at=0 steps=0 status
	while [ $steps -lt 10 ]; do
		{ number $at; number $((at + 1)); } >/tmp/pair$1
		status=0
		sg_compare_and_write --in=/tmp/pair$1 --lba=0 /dev/sg$1 >/tmp/said$1 2>&1 || status=$?
		case $status in
		$good) steps=$((steps + 1)) ;;
		$miscompare) ;;
		*)
			echo "exit status $status of COMPARE AND WRITE"
			cat /tmp/said$1
			return 1
			;;
		esac
		# What is there is never less.
		at=$((at + 1))
	done
}
number 0 >/tmp/block
expect $good write_block $one
count 0 &
count 1
wait $!
expect $good read_block $two
[ "$(cat /tmp/read)" = "$(number 20)" ] || wrong "counted to $(cat /tmp/read)"
"#;

const RESETS: &str = r#"
ready $one $two
expect $good reserve $one
expect $conflict reserve $two
expect $conflict read_block $two
expect $good release $two
expect $conflict reserve $two
expect $good release $one
expect $good reserve $two
expect $good release $two
for device in $one $two; do
	expect $good reserve $one
	expect $conflict reserve $two
	expect $good reset $device
	ready $one $two
	expect $good reserve $two
	expect $good release $two
done
expect $good reserve $one
expect $conflict reserve $two
lose_one
ready $two
expect $good reserve $two
expect $good release $two
find_one

ready $one $two
expect $good prevent $one
expect $illegal eject $one
expect $illegal eject $two
expect $good sg_turs $two
expect $good allow $one
expect $good eject $two
expect $not_ready sg_turs $one
expect $good load $two
for device in $one $two; do
	ready $one $two
	expect $good prevent $one
	expect $illegal eject $two
	expect $good reset $device
	ready $one $two
	expect $good eject $one
	expect $not_ready sg_turs $two
	expect $good load $one
done
ready $one $two
expect $good prevent $one
expect $illegal eject $two
lose_one
ready $two
expect $good eject $two
expect $good load $two
find_one

ready $one $two
expect $good reset $one
expect $attention sg_turs $two
expect $good sg_turs $two
"#;

const SANITIZE: &str = r#"
{ printf '\1\0\2\0'; cat /tmp/block; } >/tmp/once
{ printf '\37\0\2\0'; cat /tmp/block; } >/tmp/often
# DEVICE BYTES-1-TO-6
overwrite() { sg_raw --send=516 --infile=/tmp/once $1 48 $2 02 04 00; }
erase() { sg_raw $1 48 $2 00 00 00; }
ready $one $two
for reserved in "4x 00 00 00 00 00" "0x 02 00 00 00 00" "0x 00 03 00 00 00" "0x 00 00 04 00 00" "0x 00 00 00 05 00" "0x 00 00 00 00 06"; do
	expect $illegal overwrite $one "${reserved/x/1}"
	expect $illegal erase $one "${reserved/x/2}"
done
expect $good read_block $one
expect $good sdparm --set=SWP=1 $two
ready $one $two
expect $protected overwrite $one "01 00 00 00 00 00"
expect $protected erase $one "02 00 00 00 00 00"
expect $good sdparm --clear=SWP $two
ready $one $two
expect $good reserve $two
expect $conflict overwrite $one "01 00 00 00 00 00"
expect $conflict erase $one "02 00 00 00 00 00"
expect $good release $two

# A sanitize operation is ended by nothing.
goes_on() {
	status=$attention
	while [ $status = $attention ]; do try sg_turs $1; done
	[ $status = $not_ready ] || wrong "the operation does not go on"
}
expect $good sg_raw --send=516 --infile=/tmp/often $one 48 81 00 00 00 00 00 02 04 00
goes_on $one
expect $not_ready read_block $two
expect $not_ready load $two
expect $good sg_inq $two
expect $good reset $one
goes_on $two
lose_one
goes_on $two
find_one
ready $one $two
expect $good read_block $one
cmp /tmp/read /tmp/block
"#;
