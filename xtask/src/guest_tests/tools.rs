//! What the tools that administrators have for SCSI disks say of ours, and do to them.

use std::time::Duration;

use anyhow::Result;

use super::{EXPECTATIONS, Figures, Lab, PRELUDE};
use crate::qemu::{Job, path_value};
use crate::scratch::Scratch;
use crate::storage::{Disks, create};

/// There are some two hundred programs to start.
const PATIENCE: Duration = Duration::from_secs(400);

pub fn sg3_utils_and_sdparm_do_what_they_say_on_raw_and_qcow2(lab: &Lab) -> Result<Figures> {
    let scratch = Scratch::new()?;
    let mut disks = Disks::default();
    for format in ["raw", "qcow2"] {
        let path = scratch.join(&format!("disk.{format}"));
        create(format, &path, "16M")?;
        let drive = format!("file={},format={format},discard=unmap", path_value(&path));
        disks.add(&drive, &scratch)?;
    }
    let storage = lab.serve(&scratch, &disks)?;
    let parts = [
        PRELUDE,
        EXPECTATIONS,
        SETUP,
        "for target in 0 1; do\nchoose $target\n",
        ALLOCATION,
        "done\n",
        "for target in 0 1; do\nchoose $target\n",
        DESCRIBE,
        WRITE,
        COPY,
        STATE,
        ERASE,
        "done\n",
        COMPLAINTS,
    ];
    let outcome = lab
        .machine(&storage)
        .start(&Job::new(&parts.concat(), PATIENCE))?
        .finish()?
        .success()?;
    storage.stop()?;
    Ok(vec![format!("{} commands", outcome.number("checks")?)])
}

const SETUP: &str = r#"
[ $(lsscsi -g | grep -c 'LUNAR HARDDISK.*/dev/sd.*/dev/sg') = 2 ]
head -c 4096 /dev/urandom >/tmp/data
head -c 512 /tmp/data >/tmp/block
head -c 4096 /dev/zero >/tmp/zeroes
# The disk of a target, and the other one.
choose() {
	disk=/dev/lun/0:0:$1:0
	other=/dev/lun/0:0:$((1 - $1)):0
	sg=$(sg_map26 $(readlink -f $disk))
	other_sg=$(sg_map26 $(readlink -f $other))
}
# What is in BLOCKS blocks at LBA: of this disk, or of another one.
blocks() { dd if=${3-$disk} bs=512 skip=$1 count=$2 iflag=direct status=none; }
# LBA FILE [DISK]
holds() { blocks $1 $(($(stat -c %s $2) / 512)) ${3-$disk} | cmp - $2 || wrong "other data at $1 of ${3-$disk}"; }
# The first block is in all BLOCKS at LBA.
repeats() { cmp <(blocks $1 $2) <(for _ in $(seq $2); do cat /tmp/block; done) || wrong "other data at $1"; }
"#;

/// What the disk says of itself.
const DESCRIBE: &str = r#"
for command in sg_inq "sg_vpd --page=di" sg_luns sg_readcap sg_requests sg_sync "blockdev --getsize64"; do
	expect $good $command $disk
	hasnt malformed '[Ii]llegal request' '[Ii]nvalid'
done

says 'Read(16)' sg_opcodes $disk
has 'Unmap' 'Compare and write' 'Write same(32)' 'Sanitize, overwrite' 'Extended copy(LID1)' 'Report supported operation codes' \
	'Persistent reserve out, register and move' 'Set timestamp'
# There is one way to the disk, and its state is no choice of ours.
hasnt 'Set target port groups'
says 'Logical unit reset' sg_opcodes --tmf $disk

says 'Supported log pages' sg_logs -a $disk
has 'Write error counter page' 'Read error counter page' 'Verify error counter page' 'Temperature page' 'Self-test results page' \
	'Informational Exceptions page'
hasnt malformed '[Ii]llegal request'

says 'Mode data length' sg_modes -a $disk
has 'WP=0, DpoFua=1' 'Read-Write error recovery' 'Caching' '>> Control,' 'Power condition' 'Informational exceptions control'

says 'Supported VPD pages' sg_vpd -a $disk
has 'Unit serial number' 'Relative target port: 0x1' 'Third party copy' 'Maximum compare and write length: 255 blocks' \
	'Maximum unmap block descriptor count: 255' 'Unmap command supported (LBPU): 1' 'Provisioning type: 2 (thin' \
	'Block device characteristics'
hasnt malformed '[Ii]llegal request'

says 'lbpme=1, lbprz=1' sg_readcap -l $disk
has 'Number of logical blocks=32768' 'Logical block length=512 bytes'

says 'WCE  *1' sdparm --all $disk
has 'Read write error recovery' 'Control mode page' 'Power condition mode page' 'Informational exceptions control'
"#;

/// What of it has storage.
const ALLOCATION: &str = r#"
status_of() { expect $good sg_get_lba_status --lba=$1 --maxlen=256 $disk; }
status_of 1024
has '^\[1\] LBA: 0x0000000000000400  blocks:  *31744  deallocated'
dd if=/dev/urandom of=$disk bs=64k seek=8 count=1 oflag=direct status=none
status_of 1024
has '^\[1\] LBA: 0x0000000000000400  blocks:  *128  mapped' '^\[2\] LBA: 0x0000000000000480  blocks:  *31616  deallocated'
expect $good sg_unmap --force --lba=1024 --num=128 $disk
status_of 1024
has '^\[1\] LBA: 0x0000000000000400  blocks:  *31744  deallocated'
holds 1144 /tmp/zeroes
"#;

/// The ways to write, to compare and to verify.
const WRITE: &str = r#"
same="--in=/tmp/block --xferlen=512 --num=8"
expect $good sg_write_same --10 $same --lba=0 $disk
expect $good sg_write_same --16 $same --lba=8 $disk
expect $good sg_write_same --32 $same --lba=16 $disk
repeats 0 24
expect $good sg_write_same --16 --unmap --num=8 --lba=8 $disk
holds 8 /tmp/zeroes
repeats 0 8

expect $good sg_write_x --normal --16 --in=/tmp/data --num=8 --lba=32 $disk
expect $good sg_write_x --normal --32 --in=/tmp/data --num=8 --lba=40 $disk
holds 32 /tmp/data
holds 40 /tmp/data
expect $good sg_write_x --same=1 --16 --num=8 --lba=32 $disk
holds 32 /tmp/zeroes
expect $good sg_write_x --or --16 --in=/tmp/data --num=8 --lba=32 $disk
holds 32 /tmp/data

expect $good sg_write_verify --ilen=4096 --in=/tmp/data --num=8 --lba=48 $disk
expect $good sg_write_verify --16 --ilen=4096 --in=/tmp/data --num=8 --lba=56 $disk
holds 48 /tmp/data
holds 56 /tmp/data
expect $good sg_verify --lba=0 --count=64 $disk
expect $good sg_verify --ndo=4096 --in=/tmp/data --lba=48 --count=8 $disk
expect $miscompare sg_verify --ndo=4096 --in=/tmp/data --lba=0 --count=8 $disk
has 'MISCOMPARE: started at LBA 0x0'
expect $good sg_verify --16 --ebytchk=3 --ndo=512 --in=/tmp/block --lba=16 --count=8 $disk
expect $miscompare sg_verify --16 --ebytchk=3 --ndo=512 --in=/tmp/block --lba=16 --count=9 $disk

{ cat /tmp/block; head -c 512 /dev/zero; } >/tmp/compare
expect $good sg_compare_and_write --in=/tmp/compare --lba=16 --num=1 $disk
cmp <(blocks 16 1) <(head -c 512 /dev/zero)
expect $miscompare sg_compare_and_write --in=/tmp/compare --lba=16 --num=1 $disk
cmp <(blocks 16 1) <(head -c 512 /dev/zero)
"#;

/// Copies from disk to disk.
const COPY: &str = r#"
dd if=/dev/urandom of=$disk bs=64k seek=16 count=2 oflag=direct status=none
says '256 blocks, 1 command' sg_xcopy if=$sg of=$other_sg bs=512 skip=2048 seek=4101 count=256
cmp <(blocks 2048 256) <(blocks 4101 256 $other)
says '1 xcopy command' ddpt if=$disk iflag=xcopy of=$other bs=512 skip=2048 seek=5001 count=256
cmp <(blocks 2048 256) <(blocks 5001 256 $other)
says '256+0 records out' ddpt if=$disk iflag=pt of=$other oflag=pt bs=512 skip=2048 seek=6001 count=256
cmp <(blocks 2048 256) <(blocks 6001 256 $other)
"#;

/// What the disk remembers besides its data.
const STATE: &str = r#"
expect $good sg_write_buffer --mode=echo --in=/tmp/data --length=4096 $disk
# sg_read_buffer of sg3-utils 1.46 asks for no byte, whatever its --length is.
expect $good sg_read_buffer --mode=echo $disk
expect $good sg_raw --request=4096 --outfile=/tmp/echo $disk 3c 0a 00 00 00 00 00 10 00 00
cmp /tmp/echo /tmp/data

expect $good sg_senddiag --test $disk
expect $good sg_senddiag --selftest=5 $disk
says 'foreground short' sg_logs --page=str $disk
has 'completed without error'

expect $good sg_start --stop $disk
expect $not_ready sg_turs $disk
says 'initializing command required' sg_requests $disk
expect $good sg_start --start $disk
expect $good sg_turs $disk

expect $good sg_reset --no-escalate --device $disk
expect $attention sg_turs $disk
has 'Bus device reset function occurred'
expect $good sg_turs $disk

says '^1[0-9]\{12\}$' sg_timestamp $disk
expect $good sg_timestamp --milliseconds=1700000000000 $disk
says '^17000000[0-9]\{5\}$' sg_timestamp $disk

expect $good sg_ident --set $disk < <(printf 'my disk')
says '^my disk' sg_ident --ascii $disk
expect $good sg_ident --clear $disk
expect $good sg_ident --ascii $disk
hasnt 'my disk'

says 'Persist Through Power Loss Capable(PTPL_C): 1' sg_persist --no-inquiry --in --report-capabilities $disk
has 'Exclusive Access, all registrants: 1'
expect $good sg_persist --no-inquiry --out --register --param-sark=0xabc $disk
expect $good sg_persist --no-inquiry --out --reserve --param-rk=0xabc --prout-type=5 $disk
says 'Key=0xabc' sg_persist --no-inquiry --in --read-full-status $disk
has '<< Reservation holder >>' 'type: Write Exclusive, registrants only' 'Transport Id of initiator'
expect 24 sg_persist --no-inquiry --out --release --param-rk=0xdef --prout-type=5 $disk
expect $good sg_persist --no-inquiry --out --clear --param-rk=0xabc $disk
says 'NO registered reservation keys' sg_persist --no-inquiry --in --read-keys $disk

says 'WCE  *1  \[cha: y, def:  1' sdparm --get=WCE $disk
expect $good sdparm --set WCE=0 $disk
says 'WCE  *0  \[cha: y, def:  1' sdparm --get=WCE $disk
expect $good sdparm --set WCE=1 $disk
says 'WCE  *1  \[cha: y, def:  1' sdparm --get=WCE $disk
says 'blocks: 32768' sdparm --command=capacity $disk
"#;

/// The ends of all data.
const ERASE: &str = r#"
# Nothing but these 4 or fewer bytes is anywhere.
all_is() { [ "$(dd if=$disk bs=1M iflag=direct status=none | tr -d "$1" | head -c 1)" = "" ] || wrong "not all is $1"; }
printf 'abab' >/tmp/pattern
expect $good sg_sanitize --overwrite --quick --wait --pattern=/tmp/pattern --ipl=4 $disk
all_is ab
cmp <(blocks 32767 1) <(for _ in $(seq 128); do cat /tmp/pattern; done)
expect $good sg_sanitize --overwrite --quick --wait --zero $disk
all_is '\0'
expect $good sg_write_x --normal --16 --in=/tmp/data --num=8 --lba=32 $disk
holds 32 /tmp/data
expect $good sg_format --format --quick --wait $disk
all_is '\0'
expect $good sg_turs $disk
"#;

const COMPLAINTS: &str = r#"
kernel_complaints >/tmp/said
[ ! -s /tmp/said ] || wrong "the kernel complains"
echo checks=$checks
"#;
