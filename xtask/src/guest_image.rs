//! Builds the Linux guest of the demo and the tests out of Debian packages, without installing any.
//!
//! The image is an ELF kernel and an uncompressed initramfs: the programs of `guest/packages` with the
//! libraries they need, the kernel modules of `guest/modules`, and `guest/init`. What few guests need and many megabytes
//! long is in a second archive, for those who ask for it. All is made once and again only when one of these files (or the
//! recipe) changes.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cpio::Archive;
use crate::process::{read, step, tied};
use crate::{apt, kernel};

const PACKAGES: &str = include_str!("../../guest/packages");
const MODULES: &str = include_str!("../../guest/modules");
const INIT: &str = include_str!("../../guest/init");
const FUNCTIONS: &str = include_str!("../../guest/functions.sh");
/// Raise it when the code below makes something else out of the same input.
const RECIPE: u32 = 3;

/// What a guest boots.
pub struct GuestImage {
    /// The ELF kernel, for QEMU's direct boot.
    pub kernel: PathBuf,
    /// The same kernel as the distribution ships it, for boot loaders.
    pub bzimage: PathBuf,
    /// The initramfs; an archive with a job may follow it.
    pub initramfs: PathBuf,
    /// An archive to follow the initramfs, with the programs that few guests need.
    pub extras: PathBuf,
}

impl GuestImage {
    /// Builds the image in `directory` unless it is there already.
    pub fn prepare(directory: &Path) -> Result<Self> {
        let image = Self {
            kernel: directory.join("vmlinux"),
            bzimage: directory.join("vmlinuz"),
            initramfs: directory.join("initramfs.cpio"),
            extras: directory.join("extras.cpio"),
        };
        let stamp = directory.join("stamp");
        let wanted = fingerprint(&[PACKAGES, MODULES, INIT, FUNCTIONS]);
        if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(image);
        }
        eprintln!(
            "==> The guest is made of Debian packages, downloaded to {}",
            directory.display()
        );
        eprintln!(
            "    and not installed: linux-image-amd64 {}",
            entries(PACKAGES)
                .map(|(name, _)| name)
                .collect::<Vec<_>>()
                .join(" ")
        );
        std::fs::create_dir_all(directory)?;
        let userland = Userland::fetch(directory)?;
        let modules = kernel_packages(directory, &image)?;
        step("Packing the guest's initramfs", || {
            let base = pack(&userland, &modules)?;
            let extras = pack_extras(&userland, &base)?;
            std::fs::write(&image.initramfs, base.finish()?)
                .and_then(|()| std::fs::write(&image.extras, extras))
                .context("cannot write the initramfs")
        })?;
        std::fs::write(stamp, wanted)?;
        Ok(image)
    }
}

/// What the chosen packages contain, unpacked, each part in a directory of its own.
struct Userland {
    /// The programs of every guest.
    tools: PathBuf,
    /// Those that few guests need.
    extras: PathBuf,
    /// Whatever else these depend on.
    libraries: PathBuf,
}

impl Userland {
    /// Fetches and unpacks it.
    fn fetch(directory: &Path) -> Result<Self> {
        let userland = Self {
            tools: directory.join("tools"),
            extras: directory.join("extras"),
            libraries: directory.join("libraries"),
        };
        let stamp = directory.join("userland.stamp");
        let wanted = fingerprint(&[PACKAGES]);
        if std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(userland);
        }
        step("Fetching the guest's programs", || {
            let archives = directory.join("packages");
            let parts = [&userland.tools, &userland.extras, &userland.libraries];
            for stale in parts.into_iter().chain([&archives]) {
                remove(stale)?;
                std::fs::create_dir_all(stale)?;
            }
            let chosen: Vec<(&str, bool)> = entries(PACKAGES).collect();
            let names: Vec<&str> = chosen.iter().map(|(name, _)| *name).collect();
            for archive in apt::download(&names, &archives)? {
                let name = archive
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                let package = name.split('_').next().unwrap_or_default();
                let part = match chosen.iter().find(|(name, _)| *name == package) {
                    Some((_, true)) => &userland.tools,
                    Some((_, false)) => &userland.extras,
                    None => &userland.libraries,
                };
                apt::unpack(&archive, part)?;
            }
            remove(&archives)?;
            std::fs::write(&stamp, &wanted).context("cannot write the stamp")
        })?;
        Ok(userland)
    }
}

/// Fetches the kernel; returns the directory with its modules.
fn kernel_packages(directory: &Path, image: &GuestImage) -> Result<Modules> {
    let root = directory.join("kernel");
    let stamp = directory.join("kernel.stamp");
    let name = match std::fs::read_to_string(&stamp) {
        Ok(name) => name,
        Err(_) => step("Fetching the guest's kernel", || {
            let name = apt::newest("linux-image-amd64", "linux-image-")?;
            let archives = directory.join("packages");
            remove(&root)?;
            apt::unpack(&apt::download_alone(&name, &archives)?, &root)?;
            remove(&archives)?;
            let release = name.trim_start_matches("linux-image-");
            let bzimage = root.join(format!("boot/vmlinuz-{release}"));
            kernel::extract(&bzimage, &image.kernel)?;
            std::fs::copy(&bzimage, &image.bzimage)?;
            // `modprobe` wants /lib; newer packages have only /usr/lib.
            if !root.join("lib").exists() {
                std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
            }
            read(tied("depmod").arg("-b").arg(&root).arg(release))?;
            std::fs::write(&stamp, &name)?;
            Ok(name)
        })?,
    };
    let release = name.trim_start_matches("linux-image-").to_owned();
    Ok(Modules { root, release })
}

/// The kernel's modules, unpacked.
struct Modules {
    root: PathBuf,
    release: String,
}

impl Modules {
    /// The files of a module and what it depends on, in the order of loading. Built-in ones have none.
    fn files(&self, name: &str) -> Result<Vec<PathBuf>> {
        let mut command = tied("modprobe");
        command
            .arg("-d")
            .arg(&self.root)
            .args(["-S", &self.release, "--show-depends", name]);
        let text = read(&mut command)?;
        Ok(text
            .lines()
            .filter_map(|line| line.strip_prefix("insmod "))
            .map(|path| PathBuf::from(path.trim()))
            .collect())
    }
}

/// What every guest has.
fn pack(userland: &Userland, modules: &Modules) -> Result<Archive> {
    let Userland {
        tools, libraries, ..
    } = userland;
    let mut archive = Archive::default();
    for directory in [
        "dev",
        "proc",
        "sys",
        "tmp",
        "run",
        "root",
        "mnt",
        "job",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
    ] {
        archive.directory(directory)?;
    }
    for merged in ["bin", "sbin", "lib", "lib64"] {
        archive.symlink(merged, &format!("usr/{merged}"))?;
    }
    archive.device("dev/console", 5, 1)?;
    archive.device("dev/null", 1, 3)?;
    archive.file("init", 0o755, INIT.as_bytes())?;
    archive.file("etc/functions.sh", 0o644, FUNCTIONS.as_bytes())?;
    archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/bash\n")?;
    archive.file("etc/group", 0o644, b"root:x:0:\n")?;
    archive.symlink("etc/mtab", "/proc/self/mounts")?;
    archive.symlink("usr/bin/sh", "bash")?;
    archive.symlink(
        "usr/lib64/ld-linux-x86-64.so.2",
        "/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    )?;

    for path in walk(tools)? {
        let inside = path.strip_prefix(tools)?.to_string_lossy().into_owned();
        let useless = [
            "usr/share/",
            "etc/",
            "usr/bin/sh",
            "bin/sh",
            "usr/lib/systemd",
            "lib/systemd",
            "lib/udev",
            "usr/include/",
        ];
        if !useless.iter().any(|prefix| inside.starts_with(prefix)) {
            add(&mut archive, &path, &inside)?;
        }
    }
    for (path, inside) in needed_libraries(tools, libraries)? {
        add(&mut archive, &path, &inside)?;
    }

    let mut load = Vec::new();
    for (name, wanted_at_boot) in entries(MODULES) {
        for file in modules.files(name)? {
            let inside = merged(&file.strip_prefix(&modules.root)?.to_string_lossy());
            if !archive.contains(&inside) {
                add(&mut archive, &file, &inside)?;
            }
            let line = format!("/{inside}\n");
            if wanted_at_boot && !load.contains(&line) {
                load.push(line);
            }
        }
    }
    archive.file("etc/modules.load", 0o644, load.concat().as_bytes())?;
    for index in [
        "modules.dep",
        "modules.alias",
        "modules.builtin",
        "modules.symbols",
        "modules.softdep",
    ] {
        let inside = format!("lib/modules/{}/{index}", modules.release);
        let path = modules.root.join(&inside);
        if path.exists() {
            add(&mut archive, &path, &inside)?;
        }
    }
    Ok(archive)
}

/// What few guests need, as far as `base` does not have it.
fn pack_extras(userland: &Userland, base: &Archive) -> Result<Vec<u8>> {
    let Userland {
        extras, libraries, ..
    } = userland;
    let mut archive = Archive::default();
    let mut files = Vec::new();
    for path in walk(extras)? {
        let inside = path.strip_prefix(extras)?.to_string_lossy().into_owned();
        let useless = [
            "usr/share/",
            "usr/include/",
            "etc/init.d/",
            "lib/systemd/system/",
            "lib/systemd/network/",
            "lib/udev/hwdb.d/",
        ];
        if !useless.iter().any(|prefix| inside.starts_with(prefix)) {
            files.push((path, inside));
        }
    }
    files.extend(needed_libraries(extras, libraries)?);
    for (path, inside) in files {
        if !base.contains(&merged(&inside)) {
            add(&mut archive, &path, &inside)?;
        }
    }
    archive.finish()
}

/// Adds one file or symbolic link.
fn add(archive: &mut Archive, path: &Path, inside: &str) -> Result<()> {
    let inside = merged(inside);
    if archive.contains(&inside) {
        return Ok(());
    }
    let metadata = path.symlink_metadata()?;
    if metadata.is_symlink() {
        return archive.symlink(&inside, &std::fs::read_link(path)?.to_string_lossy());
    }
    let content = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    archive.file(&inside, metadata.permissions().mode() & 0o7777, &content)
}

/// The place of a file in a system whose /bin, /sbin and /lib are links into /usr.
fn merged(inside: &str) -> String {
    let top = inside.split('/').next().unwrap_or_default();
    if matches!(top, "bin" | "sbin" | "lib" | "lib64") {
        format!("usr/{inside}")
    } else {
        inside.to_owned()
    }
}

/// The shared libraries that the programs need, directly or not: where they are, and where they belong.
fn needed_libraries(tools: &Path, libraries: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut queue: Vec<PathBuf> = walk(tools)?
        .into_iter()
        .filter(|path| {
            let parent = path
                .parent()
                .map(|parent| parent.to_string_lossy().into_owned())
                .unwrap_or_default();
            parent.ends_with("/bin") || parent.ends_with("/sbin") || parent.contains("/lib")
        })
        .filter(|path| is_elf(path))
        .collect();
    let candidates = walk(libraries)?;
    while !queue.is_empty() {
        let dynamic = read(
            tied("readelf")
                .arg("--dynamic")
                .arg("--program-headers")
                .args(&queue),
        )?;
        queue.clear();
        for name in dynamic.lines().filter_map(needed_name) {
            if !seen.insert(name.clone()) {
                continue;
            }
            let place = candidates.iter().find(|path| {
                path.file_name()
                    .is_some_and(|file| file.to_string_lossy() == name)
                    && path.to_string_lossy().contains("/lib/")
            });
            let Some(path) = place else {
                continue; // the program's own package has it
            };
            let real = path
                .canonicalize()
                .with_context(|| format!("{} leads nowhere", path.display()))?;
            let inside = path.strip_prefix(libraries)?.to_string_lossy().into_owned();
            found.push((real.clone(), inside));
            queue.push(real);
        }
    }
    if found.is_empty() {
        bail!("the guest's programs seem to need no library");
    }
    Ok(found)
}

/// The library named by a line of `readelf`: a NEEDED entry or the program interpreter.
fn needed_name(line: &str) -> Option<String> {
    if line.contains("(NEEDED)") {
        return Some(line.split_once('[')?.1.split(']').next()?.to_owned());
    }
    let interpreter = line
        .split_once("program interpreter: ")?
        .1
        .trim_end_matches(']');
    interpreter.rsplit('/').next().map(str::to_owned)
}

fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = std::fs::File::open(path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic));
    read.is_ok() && &magic == b"\x7fELF"
}

/// All files and links below a directory, in a stable order.
fn walk(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory)
            .with_context(|| format!("cannot read {}", directory.display()))?
        {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        std::fs::remove_dir_all(directory)
            .with_context(|| format!("cannot remove {}", directory.display()))?;
    }
    Ok(())
}

/// The entries of a list file, one a line, without comments; a minus sign in front says: not for every guest.
fn entries(list: &str) -> impl Iterator<Item = (&str, bool)> {
    list.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| match line.strip_prefix('-') {
            Some(name) => (name, false),
            None => (line, true),
        })
}

fn fingerprint(inputs: &[&str]) -> String {
    let mut hasher = DefaultHasher::new();
    (RECIPE, inputs).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
