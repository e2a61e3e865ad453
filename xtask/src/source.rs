//! Where the kernel source comes from: what the caller gave, the cache, kernel.org, or Debian's package of the tree.

pub mod apt;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::cache::{Key, sha256_file};
use crate::cmd::{Cmd, create_dir, read_file, remove, write_file};
use crate::context::Context;

/// The release the patch series is made for.
pub const BASE_VERSION: &str = "7.3.4";

/// Any release of this series will do if the patches apply.
const BASE_SERIES: &str = "7.3.";

const KERNEL_ORG: &str = "https://cdn.kernel.org/pub/linux/kernel/v7.x";

/// The SHA-256 of kernel.org's linux-7.3.4.tar.xz. It has not been seen by us yet: the machines this was written on
/// cannot reach kernel.org. Until it is filled in, the download is compared with the entry in kernel.org's own
/// sha256sums.asc, fetched over TLS, which detects damage but trusts the site; the sum is printed so that it can be
/// written down here.
const KERNEL_ORG_SHA256: Option<&str> = None;

/// Seconds until a site that does not answer is given up.
const CONNECT_TIMEOUT: &str = "8";

/// A pristine kernel tree.
#[derive(Clone)]
pub struct Source {
    /// Where it is. Nobody writes there.
    pub dir: PathBuf,
    /// Names its content.
    pub id: String,
    /// For example "7.3.4".
    pub version: String,
    /// For people: where it came from.
    pub origin: String,
}

/// What is remembered about a source in the cache.
#[derive(Serialize, Deserialize)]
struct Record {
    id: String,
    origin: String,
}

/// Returns the kernel source, after obtaining it when need be.
pub fn ensure(ctx: &Context) -> Result<Source> {
    let source = match &ctx.kernel_source {
        Some(path) if path.is_dir() => given_tree(ctx, path)?,
        Some(path) => given_tarball(ctx, path)?,
        None => obtained(ctx)?,
    };
    if !source.version.starts_with(BASE_SERIES) {
        bail!(
            "{} is Linux {}, but the patches are for {BASE_VERSION}\n  next: give a tree of any {BASE_SERIES}z with \
             --kernel-source, or leave the option out",
            source.origin,
            source.version
        );
    }
    Ok(source)
}

fn given_tree(ctx: &Context, dir: &Path) -> Result<Source> {
    let version = version_of(dir)?;
    // Our builds keep their objects elsewhere, and the kernel's makefiles refuse a tree that was built in.
    if dir.join(".config").exists() || dir.join("include/config").exists() {
        bail!(
            "{} holds a configuration or a build\n  next: run `make mrproper` there, or give a clean tree",
            dir.display()
        );
    }
    let step = ctx.ui.step(format!("read {}", dir.display()));
    let id = Key::new("source-tree").tree("file", dir)?.finish();
    step.done(format!("Linux {version}"));
    Ok(Source { dir: dir.to_path_buf(), id, version, origin: dir.display().to_string() })
}

fn given_tarball(ctx: &Context, tarball: &Path) -> Result<Source> {
    let id = sha256_file(tarball)?;
    let entry = ctx.cache.entry(&ctx.ui, "source", &format!("tarball-{}", &id[..20]), |partial| {
        unpack(ctx, tarball, &partial.join("linux"))?;
        record(partial, id, tarball.display().to_string())
    })?;
    recorded(&entry)
}

/// The source in the cache, or the one that is fetched now.
fn obtained(ctx: &Context) -> Result<Source> {
    let entry = ctx.cache.entry(&ctx.ui, "source", &format!("linux-{BASE_VERSION}"), |partial| {
        let from_kernel_org = match kernel_org(ctx, partial) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        ctx.ui.note(format!("kernel.org's tarball could not be had: {}", first_line(&from_kernel_org)));
        ctx.ui.note("trying Debian's package of the kernel source instead");
        debian(ctx, partial).map_err(|error| {
            anyhow!(
                "no kernel source could be obtained\n  from kernel.org: {}\n  from Debian: {error:#}\n  next: download \
                 linux-{BASE_VERSION}.tar.xz elsewhere and give it with --kernel-source",
                first_line(&from_kernel_org)
            )
        })
    })?;
    recorded(&entry)
}

fn first_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    // curl's own words, which come indented below what we say about it, tell the reason.
    let reason = text.lines().find_map(|line| line.trim().strip_prefix("| "));
    reason.or(text.lines().next()).unwrap_or_default().to_owned()
}

fn kernel_org(ctx: &Context, partial: &Path) -> Result<()> {
    let name = format!("linux-{BASE_VERSION}.tar.xz");
    // Small and asked for first: it tells quickly whether the site can be reached at all.
    let sums_file = partial.join("sha256sums.asc");
    download(ctx, &format!("{KERNEL_ORG}/sha256sums.asc"), &sums_file, "kernel-org-sums")?;
    let listed = listed_sum(&read_file(&sums_file)?, &name)
        .with_context(|| format!("kernel.org's list of check sums does not name {name}"))?;
    let wanted = match KERNEL_ORG_SHA256 {
        Some(pinned) if pinned != listed => {
            bail!("kernel.org lists {listed} for {name}, but {pinned} is pinned in xtask/src/source.rs")
        }
        Some(pinned) => pinned.to_owned(),
        None => listed,
    };
    let tarball = partial.join(&name);
    download(ctx, &format!("{KERNEL_ORG}/{name}"), &tarball, "kernel-org-source")?;
    let found = sha256_file(&tarball)?;
    if found != wanted {
        bail!("{name} has the SHA-256 {found} instead of {wanted}; it is damaged or not what it says");
    }
    if KERNEL_ORG_SHA256.is_none() {
        ctx.ui.note(format!("{name}: {found}, as in kernel.org's own list; no sum is pinned in xtask/src/source.rs"));
    }
    unpack(ctx, &tarball, &partial.join("linux"))?;
    remove(&tarball)?;
    remove(&sums_file)?;
    record(partial, found, format!("kernel.org's {name}"))
}

fn download(ctx: &Context, url: &str, to: &Path, log: &str) -> Result<()> {
    let step = ctx.ui.step(format!("download {url}"));
    Cmd::new("curl")
        .args(["--fail", "--location", "--silent", "--show-error", "--connect-timeout", CONNECT_TIMEOUT])
        // A connection that stays open without moving is as good as none.
        .args(["--speed-limit", "20000", "--speed-time", "30", "--proto", "=https", "--output"])
        .arg(to)
        .arg(url)
        .step(format!("downloading {url}"))
        .run(ctx, log, |line| step.progress(line))?;
    step.done("");
    Ok(())
}

/// The sum of the file `name` in a list as sha256sum(1) writes it.
fn listed_sum(list: &str, name: &str) -> Option<String> {
    list.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (sum, file) = (words.next()?, words.next()?);
        let is_sum = sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_sum && file.trim_start_matches('*') == name).then(|| sum.to_ascii_lowercase())
    })
}

/// Debian's package holds the tarball that Debian's own kernel is built from: the release with a few patches.
fn debian(ctx: &Context, partial: &Path) -> Result<()> {
    let work = partial.join("apt");
    let package = apt::download(ctx, &work)?;
    let step = ctx.ui.step("take the tarball out of Debian's package");
    Cmd::new("dpkg-deb").arg("--extract").arg(&package.file).arg(work.join("out")).run(
        ctx,
        "debian-extract",
        |_| (),
    )?;
    step.done("");
    let dir = work.join("out/usr/src");
    let mut tarballs = fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))?.flatten();
    let tarball = tarballs
        .find(|item| item.file_name().to_string_lossy().contains(".tar"))
        .context("Debian's package holds no tarball")?
        .path();
    let id = sha256_file(&tarball)?;
    unpack(ctx, &tarball, &partial.join("linux"))?;
    remove(&work)?;
    record(partial, id, format!("Debian's {} {}", apt::PACKAGE, package.version))
}

fn unpack(ctx: &Context, tarball: &Path, to: &Path) -> Result<()> {
    let step = ctx.ui.step(format!("unpack {}", tarball.file_name().unwrap_or_default().to_string_lossy()));
    create_dir(to)?;
    Cmd::new("tar")
        .args(["--extract", "--strip-components=1", "--no-same-owner", "--file"])
        .arg(tarball)
        .arg("--directory")
        .arg(to)
        .step("unpacking the kernel source")
        .hint("check that the disk has 10 GB left, and that the tarball is one of the kernel")
        .run(ctx, "unpack", |_| ())?;
    step.done("");
    Ok(())
}

fn record(partial: &Path, id: String, origin: String) -> Result<()> {
    // Read now, so that a tarball of something else never becomes an entry.
    version_of(&partial.join("linux"))?;
    write_file(&partial.join("source.json"), serde_json::to_vec(&Record { id, origin })?)
}

fn recorded(entry: &Path) -> Result<Source> {
    let record: Record = serde_json::from_str(&read_file(&entry.join("source.json"))?)?;
    let dir = entry.join("linux");
    Ok(Source { version: version_of(&dir)?, dir, id: record.id, origin: record.origin })
}

fn version_of(tree: &Path) -> Result<String> {
    let makefile = read_file(&tree.join("Makefile"))?;
    version_in(&makefile).with_context(|| format!("{} is not a Linux source tree", tree.display()))
}

fn version_in(makefile: &str) -> Option<String> {
    let value = |name: &str| {
        let line = makefile.lines().take(10).find(|line| line.split(['=', ' ']).next() == Some(name))?;
        Some(line.split_once('=')?.1.trim().to_owned())
    };
    Some(format!("{}.{}.{}{}", value("VERSION")?, value("PATCHLEVEL")?, value("SUBLEVEL")?, value("EXTRAVERSION")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_makefiles() {
        let makefile = "# SPDX\nVERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\nEXTRAVERSION =\nNAME = x\n";
        assert_eq!(version_in(makefile).as_deref(), Some("7.3.4"));
        assert_eq!(version_in("all:\n\techo no kernel\n"), None);
    }

    #[test]
    fn sums_are_found_in_a_signed_list() {
        let sum = "0123456789abcdef".repeat(4);
        let list = format!("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{sum}  linux-7.3.40.tar.xz\n");
        assert_eq!(listed_sum(&list, "linux-7.3.4.tar.xz"), None);
        assert_eq!(listed_sum(&list, "linux-7.3.40.tar.xz"), Some(sum));
    }
}
