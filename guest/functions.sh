# Functions for init and for jobs, in the common language of busybox's shell and bash.

# Names that do not depend on the order of probing: /dev/lun/HOST:CHANNEL:TARGET:LUN.
link_luns() {
	mkdir -p /dev/lun
	for block in /sys/class/scsi_device/*/device/block/*; do
		[ -e "$block" ] || continue
		address=${block#/sys/class/scsi_device/}
		ln -sf "/dev/${block##*/}" "/dev/lun/${address%%/*}"
	done
}

# What the kernel has to say against its disks. "Power-on or device reset occurred" is no complaint: every
# new nexus starts with that unit attention.
kernel_complaints() {
	dmesg | grep -E 'scsi|sd |sd[a-z]+|sr[0-9]|virtio|blk|I/O|EXT4' |
		grep -iE 'error|fail|sense|abort|time|assuming|offline|reject|corrupt|not a head|unexpected|invalid|WARN' |
		grep -vE 'errors=|enabled time|ISO 9660|Mode Sense: |ommand line: ' || true
}

# Milliseconds since boot.
now() {
	read -r uptime _ </proc/uptime
	echo $((${uptime%.*} * 1000 + 10 * (1${uptime#*.} - 100)))
}
