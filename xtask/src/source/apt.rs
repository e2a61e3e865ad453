//! Debian's kernel source package, without touching the machine's own apt set-up.
//!
//! The package lives in a suite that the machine does not read. A private sources file names that suite at the very
//! site the machine already uses for Debian, with the same key; lists and downloads go to a folder of ours.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::cmd::{Cmd, create_dir, read_file, write_file};
use crate::context::Context;

/// The package's name.
pub const PACKAGE: &str = "linux-source-7.3";

/// The suite that has it.
const SUITE: &str = "trixie-backports";

const DEFAULT_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A package that was downloaded.
pub struct Package {
    /// The .deb file.
    pub file: PathBuf,
    /// Its version.
    pub version: String,
}

/// Downloads the package into `dir`.
pub fn download(ctx: &Context, dir: &Path) -> Result<Package> {
    let site = debian_site()?;
    for folder in ["lists/partial", "cache/archives/partial"] {
        create_dir(&dir.join(folder))?;
    }
    let sources = dir.join("debian.sources");
    write_file(&sources, site.sources_file(SUITE))?;

    let apt = || {
        let option = |name: &str, path: &Path| format!("{name}={}", path.display());
        Cmd::new("apt-get").dir(dir).args(["-q"]).args([
            "-o".into(),
            option("Dir::Etc::SourceList", &sources),
            "-o".into(),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            // The machine's preferences are about what it installs; nothing is installed here.
            "-o".into(),
            "Dir::Etc::Preferences=/dev/null".into(),
            "-o".into(),
            "Dir::Etc::PreferencesParts=/dev/null".into(),
            "-o".into(),
            option("Dir::State::Lists", &dir.join("lists")),
            "-o".into(),
            option("Dir::Cache", &dir.join("cache")),
            // As root apt would drop to a user that cannot read a cache in root's home.
            "-o".into(),
            "APT::Sandbox::User=root".into(),
            "-o".into(),
            "APT::Update::Error-Mode=any".into(),
            "-o".into(),
            "Acquire::Languages=none".into(),
        ])
    };
    let hint = "check that the machine's Debian mirror can be reached, or give a tarball with --kernel-source";
    let step = ctx.ui.step(format!("read the package list of {SUITE}"));
    apt().arg("update").step(format!("reading the package list of {SUITE}")).hint(hint).run(
        ctx,
        "debian-update",
        |line| step.progress(line),
    )?;
    step.done("");
    let step = ctx.ui.step(format!("download {PACKAGE}"));
    apt().args(["download", PACKAGE]).step(format!("downloading {PACKAGE}")).hint(hint).run(
        ctx,
        "debian-download",
        |line| step.progress(line),
    )?;
    step.done("");
    let mut files = fs::read_dir(dir)?.flatten().map(|item| item.path());
    let file = files.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let file = file.context("apt-get downloaded nothing")?;
    let version = Cmd::new("dpkg-deb").arg("--field").arg(&file).arg("Version").read()?;
    Ok(Package { file, version })
}

/// Where the machine gets Debian from, and what it trusts there.
#[derive(Debug, PartialEq, Eq)]
struct Site {
    uris: String,
    /// A keyring's path, or a key itself, as in the machine's entry.
    signed_by: Option<String>,
    /// `Trusted:`, copied so that a machine with an unsigned local mirror keeps working.
    trusted: Option<String>,
}

impl Site {
    fn sources_file(&self, suite: &str) -> String {
        let signed_by = match &self.signed_by {
            Some(signed_by) => signed_by.as_str(),
            None => DEFAULT_KEYRING,
        };
        let mut text =
            format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\nSigned-By: {signed_by}\n", self.uris);
        if let Some(trusted) = &self.trusted {
            text.push_str(&format!("Trusted: {trusted}\n"));
        }
        text
    }
}

/// An entry of apt's sources, in either format.
#[derive(Debug, Default)]
struct Entry {
    types: Vec<String>,
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
    trusted: Option<String>,
    disabled: bool,
}

/// The code name of the machine's own release, and a sources file for it.
pub fn own_release() -> Result<(String, String)> {
    let codename = codename()?;
    let sources = debian_site()?.sources_file(&codename);
    Ok((codename, sources))
}

fn codename() -> Result<String> {
    let os_release = read_file(Path::new("/etc/os-release"))?;
    if os_value(&os_release, "ID").as_deref() != Some("debian") {
        bail!("this machine is not Debian, so it has no Debian site to take packages from");
    }
    os_value(&os_release, "VERSION_CODENAME").context("/etc/os-release names no release")
}

fn debian_site() -> Result<Site> {
    let codename = codename()?;
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(dir) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(dir.flatten().map(|item| item.path()));
    }
    files.sort();
    let mut entries = Vec::new();
    for file in files.iter().filter(|file| file.exists()) {
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => entries.extend(deb822(&read_file(file)?)),
            Some("list") => entries.extend(one_line(&read_file(file)?)),
            _ => {}
        }
    }
    site_among(&entries, &codename).context("no entry in /etc/apt names the site this machine gets Debian itself from")
}

/// The first enabled entry for Debian's main archive: the one that has the machine's own suite, not its updates.
fn site_among(entries: &[Entry], codename: &str) -> Option<Site> {
    let own = |suite: &String| [codename, "stable", "testing", "unstable", "sid"].contains(&suite.as_str());
    let entry = entries.iter().find(|entry| {
        !entry.disabled
            && entry.types.iter().any(|kind| kind == "deb")
            && entry.suites.iter().any(own)
            && entry.components.iter().any(|component| component == "main")
            && entry.uris.iter().any(|uri| !uri.starts_with("cdrom:"))
    })?;
    let uris: Vec<_> = entry.uris.iter().filter(|uri| !uri.starts_with("cdrom:")).cloned().collect();
    Some(Site { uris: uris.join(" "), signed_by: entry.signed_by.clone(), trusted: entry.trusted.clone() })
}

/// Reads the format of `*.sources` files: stanzas of `Field: value`, continued on indented lines.
fn deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for stanza in stanzas(text) {
        let mut entry = Entry::default();
        let words = |value: &str| value.split_whitespace().map(str::to_owned).collect();
        for (field, value) in stanza {
            match field.to_ascii_lowercase().as_str() {
                "types" => entry.types = words(&value),
                "uris" => entry.uris = words(&value),
                "suites" => entry.suites = words(&value),
                "components" => entry.components = words(&value),
                "signed-by" => entry.signed_by = Some(value),
                "trusted" => entry.trusted = Some(value),
                "enabled" => entry.disabled = ["no", "false", "0"].contains(&value.as_str()),
                _ => {}
            }
        }
        entries.push(entry);
    }
    entries
}

fn stanzas(text: &str) -> Vec<Vec<(String, String)>> {
    let mut stanzas = vec![Vec::<(String, String)>::new()];
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let last = stanzas.len() - 1;
        if line.trim().is_empty() {
            stanzas.push(Vec::new());
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanzas[last].last_mut() {
                // Kept as written: a key in the middle of a stanza depends on it.
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((field, value)) = line.split_once(':') {
            stanzas[last].push((field.trim().to_owned(), value.trim().to_owned()));
        }
    }
    stanzas.retain(|stanza| !stanza.is_empty());
    stanzas
}

/// Reads the format of `*.list` files: `deb [option=value ...] uri suite component ...`.
fn one_line(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some((kind, mut rest)) = line.split_once([' ', '\t']) else { continue };
        let mut entry = Entry { types: vec![kind.to_owned()], ..Entry::default() };
        rest = rest.trim_start();
        if let Some((options, after)) = rest.strip_prefix('[').and_then(|options| options.split_once(']')) {
            for (name, value) in options.split_whitespace().filter_map(|option| option.split_once('=')) {
                match name {
                    "signed-by" => entry.signed_by = Some(value.to_owned()),
                    "trusted" => entry.trusted = Some(value.to_owned()),
                    _ => {}
                }
            }
            rest = after;
        }
        let mut words = rest.split_whitespace().map(str::to_owned);
        entry.uris.extend(words.next());
        entry.suites.extend(words.next());
        entry.components.extend(words);
        entries.push(entry);
    }
    entries
}

/// A value of /etc/os-release.
fn os_value(os_release: &str, name: &str) -> Option<String> {
    let line = os_release.lines().find(|line| line.split('=').next() == Some(name))?;
    Some(line.split_once('=')?.1.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
# A comment
Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main

Types: deb deb-src
# http://old.example/
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /keys/debian.gpg

Types: deb
URIs: https://other.example/node
Suites: nodistro
Components: main
";

    #[test]
    fn the_main_archive_is_found_in_deb822() {
        let site = site_among(&deb822(DEB822), "bookworm").unwrap();
        assert_eq!(site.uris, "http://mirror.example/debian");
        assert_eq!(site.signed_by.as_deref(), Some("/keys/debian.gpg"));
        let file = site.sources_file("trixie-backports");
        assert!(file.contains("URIs: http://mirror.example/debian\nSuites: trixie-backports\n"), "{file}");
        assert!(site_among(&deb822(DEB822), "trixie").is_none());
    }

    #[test]
    fn the_main_archive_is_found_in_one_line_entries() {
        let list = "# x\ndeb cdrom:[Debian]/ bookworm main\ndeb-src http://m.example/debian bookworm main\n\
                    deb\t[ arch=amd64 signed-by=/k.gpg ] http://m.example/debian bookworm main non-free # why\n";
        let site = site_among(&one_line(list), "bookworm").unwrap();
        assert_eq!(
            site,
            Site { uris: "http://m.example/debian".into(), signed_by: Some("/k.gpg".into()), trusted: None }
        );
    }

    #[test]
    fn disabled_entries_do_not_count() {
        let text = "Enabled: no\nTypes: deb\nURIs: http://m.example/debian\nSuites: bookworm\nComponents: main\n";
        assert!(site_among(&deb822(text), "bookworm").is_none());
    }

    #[test]
    fn keys_inside_an_entry_keep_their_lines() {
        let text = "Types: deb\nURIs: u\nSuites: sid\nComponents: main\nSigned-By:\n -----BEGIN-----\n .\n abc\n";
        let site = site_among(&deb822(text), "forky").unwrap();
        assert!(site.sources_file("s").contains("Signed-By: \n -----BEGIN-----\n .\n abc\n"));
    }
}
