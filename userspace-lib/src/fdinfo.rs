//! What `/proc/PID/fdinfo/FD` says about a template.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::str;

use crate::Error;

/// What the kernel tells about a template: which executable it holds, and how often it was started.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Path of the executable, as the kernel prints it now: with ` (deleted)` at its end when it was unlinked.
    pub path: PathBuf,
    /// Device that the executable is on: major and minor number.
    pub device: (u32, u32),
    /// Inode number of the executable.
    pub inode: u64,
    /// Size of the executable when the template was made, in bytes.
    pub size: u64,
    /// The ELF interpreter (dynamic loader) that the program asks for; `None` for a static program. The kernel prints
    /// unprintable characters in it as `\xNN`.
    pub interpreter: Option<PathBuf>,
    /// How many ELF program headers it has.
    pub program_headers: u64,
    /// How much kernel memory the template takes, in bytes.
    pub memory: u64,
    /// How many pages of its files it is known to touch, and gets mapped at once; 0 until the first process has ended, or
    /// has run for ten seconds, or for one and another is started.
    pub startup_pages: u64,
    /// How many processes were started.
    pub spawns: u64,
    /// How many attempts to start one failed.
    pub failures: u64,
}

impl Stats {
    /// Reads the text of the file. Lines with other names are passed over.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, Error> {
        let device = str::from_utf8(field(text, "dev")?)
            .ok()
            .and_then(|device| device.split_once(':'))
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
            .ok_or(Error::Reply("the device in fdinfo is not major:minor"))?;
        let interpreter = match field(text, "interpreter")? {
            b"-" => None,
            name => Some(path(name.to_owned())),
        };
        Ok(Stats {
            path: path(unescape(field(text, "path")?)),
            device,
            inode: number(text, "inode")?,
            size: number(text, "size")?,
            interpreter,
            program_headers: number(text, "program-headers")?,
            memory: number(text, "memory")?,
            startup_pages: number(text, "startup-pages")?,
            spawns: number(text, "spawns")?,
            failures: number(text, "failures")?,
        })
    }
}

/// The value of the line `name:<tab>value`.
fn field<'a>(text: &'a [u8], name: &str) -> Result<&'a [u8], Error> {
    text.split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b":"))
        .map(<[u8]>::trim_ascii_start)
        .ok_or(Error::Reply("fdinfo lacks a field: not a spawn template"))
}

fn number(text: &[u8], name: &str) -> Result<u64, Error> {
    let value = field(text, name)?;
    str::from_utf8(value).ok().and_then(|value| value.parse().ok()).ok_or(Error::Reply("a number in fdinfo is none"))
}

fn path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

/// Undoes `seq_file_path()`, which writes newline, tab and backslash as a backslash and three octal digits.
fn unescape(mut text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    while let [first, rest @ ..] = text {
        text = rest;
        bytes.push(*first);
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..]) = (first, rest) {
            text = rest;
            bytes.pop();
            bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    type Result<T = ()> = std::result::Result<T, Error>;

    const TEXT: &str = "pos:\t0\nflags:\t02000002\nmnt_id:\t16\nino:\t1057\npath:\t/usr/bin/my echo\ndev:\t254:0\n\
                        inode:\t1234\nsize:\t43856\ninterpreter:\t/lib64/ld-linux-x86-64.so.2\nprogram-headers:\t13\n\
                        memory:\t8412\nstartup-pages:\t87\nspawns:\t7\nfailures:\t2\n";

    #[test]
    fn reads_all_fields() -> Result {
        let stats = Stats::parse(TEXT.as_bytes())?;
        assert_eq!(stats.path, Path::new("/usr/bin/my echo"));
        assert_eq!(stats.device, (254, 0));
        assert_eq!((stats.inode, stats.size, stats.program_headers), (1234, 43856, 13));
        assert_eq!(stats.interpreter.as_deref(), Some(Path::new("/lib64/ld-linux-x86-64.so.2")));
        assert_eq!(stats.memory, 8412);
        assert_eq!((stats.startup_pages, stats.spawns, stats.failures), (87, 7, 2));
        Ok(())
    }

    #[test]
    fn a_static_program_has_no_interpreter() -> Result {
        let text = TEXT.replace("/lib64/ld-linux-x86-64.so.2", "-");
        assert_eq!(Stats::parse(text.as_bytes())?.interpreter, None);
        Ok(())
    }

    #[test]
    fn escaped_characters_in_the_path() -> Result {
        let text = TEXT.replace("my echo", r"a\012b\011c\134d\1e");
        assert_eq!(Stats::parse(text.as_bytes())?.path, Path::new("/usr/bin/a\nb\tc\\d\\1e"));
        Ok(())
    }

    #[test]
    fn refuses_the_fdinfo_of_anything_else() {
        for text in
            ["", "pos:\t0\nflags:\t02\n", &TEXT.replace("spawns:\t7", "spawns:\tmany"), &TEXT.replace("254:0", "x")]
        {
            assert!(matches!(Stats::parse(text.as_bytes()), Err(Error::Reply(_))), "{text}");
        }
    }
}
