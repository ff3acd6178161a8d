//! A disk that two guests share, fenced by persistent reservations.

use std::fs::File;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::shared::Shared;
use super::{Figures, Lab, PRELUDE};
use crate::qemu::Job;
use crate::scratch::Scratch;

/// The guests wait for each other.
const PATIENCE: Duration = Duration::from_secs(300);

/// What both guests have.
const COMMON: &str = r#"
disk=/dev/lun/0:0:0:0
# PERSISTENT RESERVE OUT. Who has something to hear first hears it, and does it again.
persist() {
	local status=6
	while [ $status = 6 ]; do
		status=0
		sg_persist --no-inquiry --out "$@" $disk >/dev/null 2>&1 || status=$?
	done
	[ $status = 0 ] || { echo "sg_persist $*: status $status"; exit 1; }
}
# PERSISTENT RESERVE IN, likewise.
standing() { until sg_persist --no-inquiry --in $1 $disk 2>/dev/null; do :; done; }
keys() { standing --read-keys | grep -c '^ *0x'; }
reserved() { case "$(standing --read-reservation)" in *"Reservation follows"*) ;; *) return 1 ;; esac; }
"#;

/// Fences the other in the middle of its writing, and writes zeroes where it wrote. They have to stay.
const FENCES: &str = r#"
region() { dd if=$disk bs=64k skip=16 count=64 iflag=direct 2>/dev/null; }
for type in 5 7; do
	printf w >/tmp/w
	persist --register-ignore --param-sark=1 --param-aptpl
	until [ $(keys) = 2 ]; do sleep 0.1; done
	persist --reserve --param-rk=1 --prout-type=$type
	# Each of its writers is at work.
	for writer in 0 1 2 3; do
		until dd if=$disk bs=64k skip=$((16 + 16 * writer)) count=1 iflag=direct 2>/dev/null | cmp -s -n 1 - /tmp/w; do sleep 0.1; done
	done
	start=$(now)
	persist --preempt-abort --param-rk=1 --param-sark=2 --prout-type=$type
	echo fenced$type=$(($(now) - start))
	dd if=/dev/zero of=$disk bs=64k seek=16 count=64 oflag=direct conv=notrunc 2>/dev/null
	for look in $(seq 8); do
		landed=$(region | tr -d '\0' | wc -c)
		if [ $landed != 0 ]; then
			echo "look $look: $landed bytes written behind the fence"
			sg_persist --no-inquiry --in --read-full-status $disk
			region | od -A d -t x1 | head -n 20
			exit 1
		fi
		sleep 0.3
	done
	sg_persist --no-inquiry --in --read-reservation $disk
	[ $type = 7 ] || persist --release --param-rk=1 --prout-type=$type
done
"#;

const IS_FENCED: &str = r#"
head -c 65536 /dev/zero | tr '\0' w >/tmp/data
head -c 512 /dev/zero | tr '\0' b >/tmp/block
for type in 5 7; do
	while reserved; do sleep 0.1; done
	persist --register-ignore --param-sark=2 --param-aptpl
	until reserved; do sleep 0.1; done
	for writer in 0 1 2 3; do
		( while :; do
			for place in $(seq 0 15); do
				dd if=/tmp/data of=$disk bs=64k seek=$((16 + 16 * writer + place)) oflag=direct conv=notrunc 2>/tmp/error$writer || exit 0
			done
		done ) &
	done
	wait
	# This is how Linux calls RESERVATION CONFLICT.
	[ $(cat /tmp/error? | grep -c 'Invalid exchange') = 4 ] || { cat /tmp/error?; exit 1; }
	for try in 1 2 3 4 5 6 7 8; do
		status=0
		sg_raw --send=512 --infile=/tmp/block $disk 2a 0 0 0 8 0 0 0 1 0 2>/dev/null || status=$?
		# Whether it has heard what happened to its registration depends on who asked first.
		[ $status = 24 ] || { [ $try = 1 ] && [ $status = 6 ]; } || { echo "write: status $status"; exit 1; }
		sleep 0.2
	done
	echo fenced$type
done
"#;

/// What both see after the server was killed and everything has been started again.
const AGAIN: &str = r#"
sg_persist --no-inquiry --in --read-keys $disk
sg_persist --no-inquiry --in --read-reservation $disk
head -c 512 /dev/zero | tr '\0' b >/tmp/block
status=0
sg_raw --send=512 --infile=/tmp/block $disk 2a 0 0 0 8 0 0 0 1 0 2>/dev/null || status=$?
echo write: $status
"#;

/// The left one is the only registrant. A reservation of all registrants is nobody's in particular: its key is 0.
const RESERVED: &str = concat!(
    "  PR generation=0x0, 1 registered reservation key follows:\n",
    "    0x1\n",
    "  PR generation=0x0, Reservation follows:\n",
    "    Key=0x0\n",
    "    scope: LU_SCOPE,  type: Write Exclusive, all registrants\n",
);

pub fn two_guests_fence_each_other_and_the_fence_outlives_the_server(lab: &Lab) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let image = scratch.join("shared.raw");
    File::create(&image)?.set_len(16 << 20)?;
    let shared = Shared::serve(lab, &scratch, &image, ["", ""])?;
    let start = |shared: &Shared, side, script: &str| {
        shared
            .machine(lab, side)
            .start(&Job::new(&format!("{PRELUDE}{COMMON}{script}"), PATIENCE))
    };
    let (left, right) = (start(&shared, 0, FENCES)?, start(&shared, 1, IS_FENCED)?);
    let left = left.finish()?.success()?;
    let right = right.finish()?.success()?;
    ensure!(right.stdout == "fenced5\nfenced7\n", "{}", right.stdout);
    for name in [
        "Write Exclusive, registrants only",
        "Write Exclusive, all registrants",
    ] {
        ensure!(left.stdout.contains(name), "{}", left.stdout);
    }
    shared.kill()?;

    let shared = Shared::serve(lab, &scratch, &image, ["", ""])?;
    let (left_again, right_again) = (start(&shared, 0, AGAIN)?, start(&shared, 1, AGAIN)?);
    for (guest, status) in [(left_again, 0), (right_again, 24)] {
        let outcome = guest.finish()?.success()?;
        let expected = format!("{RESERVED}write: {status}\n");
        ensure!(outcome.stdout == expected, "{}", outcome.stdout);
    }
    shared.stop()?;
    Ok(vec![format!(
        "PREEMPT AND ABORT under I/O: {} and {} ms",
        left.number("fenced5")?,
        left.number("fenced7")?
    )])
}
