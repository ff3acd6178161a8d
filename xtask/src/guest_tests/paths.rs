//! What two initiators do to each other on one disk, with the tools that a Linux guest has: what libiscsi's suites can
//! only try over iSCSI. One guest has both controllers; to the disk these are two initiators.

use std::fs::File;
use std::time::Duration;

use anyhow::Result;

use super::shared::Shared;
use super::{Figures, Lab, PRELUDE};
use crate::qemu::{Job, Outcome};
use crate::scratch::Scratch;

/// There are hundreds of commands to start.
const PATIENCE: Duration = Duration::from_secs(400);

const SETUP: &str = r#"
a=/dev/lun/0:0:0:0
b=/dev/lun/1:0:0:0
head -c 1024 /dev/zero | tr '\0' y >/tmp/data
checks=0
# Runs a tool, which must end with this status. 24: RESERVATION CONFLICT; 6: UNIT ATTENTION.
gives() {
	local expected=$1 status=0
	shift
	"$@" >/tmp/said 2>&1 || status=$?
	[ $status = $expected ] || { echo "$*: status $status instead of $expected"; cat /tmp/said; exit 1; }
	checks=$((checks + 1))
}
# Sends a command: without data, with data-in, with data-out.
send() { gives $1 sg_raw $2 ${@:3}; }
receive() { gives $1 sg_raw --request=4096 $2 ${@:3}; }
give() { gives $1 sg_raw --send=$3 --infile=/tmp/data $2 ${@:4}; }
persist() { gives $1 sg_persist --no-inquiry --out ${@:3} $2; }
# Lets a path hear everything; TEST UNIT READY is executed whoever holds a reservation.
listen() { until sg_turs $1 >/dev/null 2>&1; do :; done; }
attention() {
	sg_turs $1 >/tmp/said 2>&1 && { echo "$1 has nothing to hear of: $2"; exit 1; }
	grep -q "$2" /tmp/said || { cat /tmp/said; exit 1; }
}
reads() {
	receive $1 $2 28 0 0 0 0 8 0 0 1 0
	receive $1 $2 88 0 0 0 0 0 0 0 0 8 0 0 0 1 0 0
	send $1 $2 2f 0 0 0 0 8 0 0 1 0
	send $1 $2 34 0 0 0 0 8 0 0 1 0
}
writes() {
	give $1 $2 512 2a 0 0 0 0 8 0 0 1 0
	give $1 $2 512 8a 0 0 0 0 0 0 0 0 8 0 0 0 1 0 0
	give $1 $2 512 41 0 0 0 0 8 0 0 1 0
	give $1 $2 512 2e 0 0 0 0 8 0 0 1 0
	give $1 $2 1024 89 0 0 0 0 0 0 0 0 8 0 0 0 1 0 0
}
# What does not touch the medium, and what is there to find out about reservations.
rest() {
	send $1 $2 0 0 0 0 0 0
	receive $1 $2 12 0 0 0 60 0
	receive $1 $2 25 0 0 0 0 0 0 0 0 0
	receive $1 $2 a0 0 0 0 0 0 0 0 10 0 0 0
	receive $1 $2 5e 0 0 0 0 0 0 10 0 0
	receive $1 $2 a3 a 0 0 0 0 0 0 10 0 0 0
}
listen $a
listen $b
dd if=/tmp/data of=$a bs=512 seek=8 count=1 oflag=direct 2>/dev/null
"#;

/// Every type against every class of commands, from one who is registered and one who is not.
const ACCESS: &str = r#"
for type in 1 3 5 6 7 8; do
	persist 0 $a --register --param-sark=1
	persist 24 $a --reserve --param-rk=2 --prout-type=$type
	persist 0 $a --reserve --param-rk=1 --prout-type=$type
	case $type in 1 | 5 | 7) read=0 ;; *) read=24 ;; esac
	reads 0 $a
	writes 0 $a
	rest 0 $a
	reads $read $b
	writes 24 $b
	rest 0 $b
	persist 24 $b --reserve --param-rk=0 --prout-type=$type
	persist 24 $b --release --param-rk=0 --prout-type=$type
	persist 24 $b --clear --param-rk=0

	persist 0 $b --register --param-sark=2
	case $type in 1) read=0 write=24 ;; 3) read=24 write=24 ;; *) read=0 write=0 ;; esac
	reads $read $b
	writes $write $b
	rest 0 $b
	# With all registrants as holders, RESERVE and RELEASE are everybody's.
	case $type in 7 | 8) holder=0 ;; *) holder=24 ;; esac
	persist $holder $b --reserve --param-rk=2 --prout-type=$type
	case $type in
	7 | 8) persist 0 $b --release --param-rk=2 --prout-type=$type ;;
	*)
		# Nobody but the holder can release it; it is no error to try.
		persist 0 $b --release --param-rk=2 --prout-type=$type
		gives 0 sg_persist --no-inquiry --in --read-reservation $a
		grep -q 'Key=0x1$' /tmp/said
		persist 0 $a --release --param-rk=1 --prout-type=$type
		;;
	esac
	case $type in
	1 | 3) ;;
	7 | 8) attention $a 'Reservations released' ;;
	*) attention $b 'Reservations released' ;;
	esac
	writes 0 $a
	writes 0 $b
	persist 0 $b --clear --param-rk=2
	attention $a 'Reservations preempted'
	gives 0 sg_persist --no-inquiry --in --read-keys $a
	grep -q 'NO registered reservation keys' /tmp/said
done
echo access=$checks
"#;

/// Preempting a holder, a registrant, and everybody.
const PREEMPT: &str = r#"
checks=0
persist 0 $a --register --param-sark=1
persist 0 $b --register --param-sark=2
persist 0 $a --reserve --param-rk=1 --prout-type=1
persist 24 $b --preempt --param-rk=2 --param-sark=3 --prout-type=3
persist 0 $b --preempt --param-rk=2 --param-sark=1 --prout-type=3
attention $a 'Registrations preempted'
reads 24 $a
writes 24 $a
writes 0 $b
persist 24 $a --release --param-rk=1 --prout-type=3
persist 0 $a --register --param-sark=1
# A registrant that holds nothing is removed; the reservation stays.
persist 0 $b --preempt-abort --param-rk=2 --param-sark=1 --prout-type=3
attention $a 'Registrations preempted'
gives 0 sg_persist --no-inquiry --in --read-reservation $a
grep -q 'Key=0x2$' /tmp/said
grep -q 'type: Exclusive Access$' /tmp/said
# Its holder goes, and the reservation with it.
persist 0 $b --register --param-rk=2 --param-sark=0
writes 0 $a
persist 0 $a --register --param-sark=1
persist 0 $b --register --param-sark=2
persist 0 $a --reserve --param-rk=1 --prout-type=8
persist 0 $b --preempt --param-rk=2 --param-sark=0 --prout-type=7
attention $a 'Registrations preempted'
gives 0 sg_persist --no-inquiry --in --read-full-status $b
[ $(grep -c 'Key=' /tmp/said) = 1 ]
writes 24 $a
persist 0 $b --clear --param-rk=2
echo preempt=$checks
"#;

/// RESERVE and RELEASE of SPC-2, of 6 and of 10 bytes.
const LEGACY: &str = r#"
checks=0
listen $a
listen $b
for opcodes in '16 17' '56 57'; do
	set -- $opcodes
	case $1 in 16) zeroes='0 0 0 0 0' ;; *) zeroes='0 0 0 0 0 0 0 0 0' ;; esac
	send 0 $a $1 $zeroes
	send 0 $a $1 $zeroes
	send 24 $b $1 $zeroes
	reads 24 $b
	writes 24 $b
	send 24 $b 0 0 0 0 0 0
	receive 0 $b 12 0 0 0 60 0
	receive 0 $b a0 0 0 0 0 0 0 0 10 0 0 0
	persist 24 $b --register --param-sark=2
	writes 0 $a
	# Only the holder's RELEASE ends it.
	send 0 $b $2 $zeroes
	writes 24 $b
	send 0 $a $2 $zeroes
	writes 0 $b
	# A reset ends it, too.
	send 0 $a $1 $zeroes
	writes 24 $b
	sg_reset --device $b
	listen $a
	listen $b
	writes 0 $b
	# Where there are keys, it is left to them; whom these let in has nothing to complain of.
	persist 0 $a --register --param-sark=1
	send 24 $a $1 $zeroes
	persist 0 $a --reserve --param-rk=1 --prout-type=5
	send 0 $a $1 $zeroes
	send 0 $a $2 $zeroes
	send 24 $b $1 $zeroes
	writes 24 $b
	persist 0 $a --clear --param-rk=1
	writes 0 $b
done
echo legacy=$checks
"#;

/// Both paths lead to the same disk, and say so.
const SAME: &str = r#"
for page in 0x80 0xb0 0xb1 0xb2 0x88; do
	cmp <(sg_vpd --page=$page $a) <(sg_vpd --page=$page $b)
done
id() { sg_vpd --page=di_lu --quiet $1; }
[ -n "$(id $a)" ] && [ "$(id $a)" = "$(id $b)" ]
port() { sg_vpd --page=di_port $1; }
[ "$(port $a)" != "$(port $b)" ]
sg_inq $a | grep -q 'MultiP=1'
sg_inq $a | grep -q 'TPGS=3'
# What is written on one is read on the other; so it is after COMPARE AND WRITE, WRITE SAME and UNMAP.
same() { cmp -n $((1 << 20)) $a $b; blockdev --flushbufs $a $b; }
dd if=/dev/urandom of=$a bs=64k count=16 oflag=direct 2>/dev/null
same
dd if=$a of=/tmp/caw bs=512 count=1 iflag=direct 2>/dev/null
cat /tmp/data >>/tmp/caw
sg_compare_and_write --in=/tmp/caw --lba=0 --num=1 $b
[ "$(dd if=$a bs=512 count=1 iflag=direct 2>/dev/null | cmp -n 512 - /tmp/data)" = "" ]
gives 14 sg_compare_and_write --in=/tmp/caw --lba=0 --num=1 $a
sg_write_same --10 --lba=64 --num=64 --in=/tmp/data --xferlen=512 $b
same
sg_unmap --force --lba=128 --num=64 $b
same
[ "$(dd if=$a bs=512 skip=128 count=64 iflag=direct 2>/dev/null | tr -d '\0')" = "" ]
# A mode page changed on one path is changed on the other, which hears of it.
sdparm --quiet --set=SWP=1 $a
attention $b 'Mode parameters changed'
[ "$(sdparm --quiet --get=SWP $b | awk '{ print $2 }')" = 1 ]
give 7 $b 512 2a 0 0 0 0 8 0 0 1 0
sdparm --quiet --set=SWP=0 $a
listen $b
give 0 $b 512 2a 0 0 0 0 8 0 0 1 0
"#;

pub fn two_initiators_reserve_preempt_and_clear_as_the_standards_say(lab: &Lab) -> Result<Figures> {
    let outcome = run(lab, &format!("{SETUP}{ACCESS}{PREEMPT}{LEGACY}"))?;
    let mut figures = Vec::new();
    for name in ["access", "preempt", "legacy"] {
        figures.push(format!("{name}: {} commands", outcome.number(name)?));
    }
    Ok(figures)
}

pub fn two_paths_lead_to_the_same_disk(lab: &Lab) -> Result<Figures> {
    run(lab, &format!("{SETUP}{SAME}"))?;
    Ok(Vec::new())
}

/// Runs a script in a guest that has both paths.
fn run(lab: &Lab, script: &str) -> Result<Outcome> {
    let scratch = Scratch::new()?;
    let image = scratch.join("shared.raw");
    File::create(&image)?.set_len(16 << 20)?;
    let shared = Shared::serve(lab, &scratch, &image, ["", ""])?;
    let outcome = shared
        .machine_with_both(lab)
        .start(&Job::new(&format!("{PRELUDE}{script}"), PATIENCE))?
        .finish()?
        .success()?;
    shared.stop()?;
    Ok(outcome)
}
