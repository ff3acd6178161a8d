//! A disk that both SeaBIOS and OVMF boot: GRUB, the guest's kernel and its initramfs.
//!
//! The layout is the simplest that both accept: a boot record whose only partition, a FAT file system from the
//! first mebibyte on, is marked as the EFI system partition. GRUB's BIOS image lies in the gap before it, GRUB's UEFI
//! program, the kernel and the initramfs inside.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::guest_image::GuestImage;
use crate::process::{read, tied};
use crate::scratch::Scratch;

/// Packages that provide the boot loader and the tools to install it.
pub const HOST_PACKAGES: &[(&str, &str)] = &[
    ("grub-common", "/usr/bin/grub-mkimage"),
    ("grub-efi-amd64-bin", "/usr/lib/grub/x86_64-efi/fat.mod"),
    ("grub-pc-bin", "/usr/lib/grub/i386-pc/boot.img"),
    ("mtools", "/usr/bin/mcopy"),
];

const SECTOR: u64 = 512;
const PARTITION_START: u64 = 2048;
const PARTITION_SECTORS: u64 = 126 * 2048;
const EFI_SYSTEM_PARTITION: u8 = 0xef;

/// Writes a bootable image to `path`, raw.
pub fn create(path: &Path, image: &GuestImage, kernel_arguments: &str, job: &[u8]) -> Result<()> {
    let scratch = Scratch::new()?;
    // GRUB's rescue shell runs it, which knows no more than this.
    let configuration = scratch.join("grub.cfg");
    std::fs::write(
        &configuration,
        format!(
            "search.file /job.cpio root\nlinux /vmlinuz {kernel_arguments}\ninitrd /initramfs.cpio /job.cpio\nboot\n"
        ),
    )?;
    let job_file = scratch.join("job.cpio");
    std::fs::write(&job_file, job)?;

    let disk =
        File::create_new(path).with_context(|| format!("cannot create {}", path.display()))?;
    disk.set_len((PARTITION_START + PARTITION_SECTORS) * SECTOR)?;
    disk.write_all_at(&boot_record()?, 0)?;
    let core = scratch.join("core.img");
    grub("i386-pc", &["biosdisk"], &configuration, &core)?;
    let core = std::fs::read(core)?;
    if core.len() as u64 > (PARTITION_START - 1) * SECTOR {
        bail!("GRUB does not fit before the partition");
    }
    // GRUB's own defaults: the boot record continues at sector 1, which loads the rest from sector 2 on.
    disk.write_all_at(&core, SECTOR)?;
    let efi = scratch.join("bootx64.efi");
    grub("x86_64-efi", &[], &configuration, &efi)?;

    let partition = format!("{}@@{}", path.display(), PARTITION_START * SECTOR);
    let sectors = PARTITION_SECTORS.to_string();
    read(tied("mformat").args([
        "-i", &partition, "-T", &sectors, "-h", "64", "-s", "32", "-H", "2048", "-F", "::",
    ]))?;
    read(tied("mmd").args(["-i", &partition, "::/EFI", "::/EFI/BOOT"]))?;
    for (from, to) in [
        (&efi, "::/EFI/BOOT/BOOTX64.EFI"),
        (&image.bzimage, "::/vmlinuz"),
        (&image.initramfs, "::/initramfs.cpio"),
        (&job_file, "::/job.cpio"),
    ] {
        read(tied("mcopy").args(["-i", &partition]).arg(from).arg(to))?;
    }
    Ok(())
}

/// GRUB with all it needs inside, including what to do.
fn grub(platform: &str, modules: &[&str], configuration: &Path, output: &Path) -> Result<()> {
    read(
        tied("grub-mkimage")
            .args(["--format", platform, "--prefix", "/grub", "--config"])
            .arg(configuration)
            .arg("--output")
            .arg(output)
            .args(["part_msdos", "fat", "search_fs_file", "linux"])
            .args(modules),
    )
    .map(drop)
}

/// GRUB's first sector, with our partition in its table.
fn boot_record() -> Result<Vec<u8>> {
    const TABLE: usize = 446;
    let mut record = std::fs::read("/usr/lib/grub/i386-pc/boot.img")?;
    let mut partition = vec![
        0x80,
        0xfe,
        0xff,
        0xff,
        EFI_SYSTEM_PARTITION,
        0xfe,
        0xff,
        0xff,
    ];
    partition.extend(u32::try_from(PARTITION_START)?.to_le_bytes());
    partition.extend(u32::try_from(PARTITION_SECTORS)?.to_le_bytes());
    partition.resize(64, 0);
    partition.extend([0x55, 0xaa]);
    record.truncate(TABLE);
    record.extend(partition);
    Ok(record)
}
