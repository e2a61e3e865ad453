//! The kinds of programs that an attack is aimed at: each is something that its caller is not, or must not see.

use std::io;

use crate::os;
use crate::template::{Folder, set_mode};

/// CAP_NET_RAW.
const NET_RAW: u32 = 1 << 13;

/// A kind of program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Set-user-ID root.
    SetUserId,
    /// With a file capability.
    FileCapability,
    /// Executable for everybody, readable for root only.
    ExecuteOnly,
    /// With a label of Smack's that the process gets.
    Label,
}

impl Program {
    /// What cells call it.
    pub fn name(self) -> &'static str {
        match self {
            Program::SetUserId => "set-user-ID program",
            Program::FileCapability => "program with a file capability",
            Program::ExecuteOnly => "execute-only program",
            Program::Label => "program with a label",
        }
    }

    /// Writes such a program and returns its path.
    pub fn make(self, folder: &Folder) -> io::Result<String> {
        let path = folder.copy("privileged")?;
        match self {
            Program::SetUserId => set_mode(&path, 0o4755)?,
            Program::FileCapability => {
                // VFS_CAP_REVISION_2 and "effective", then permitted and inheritable, low and high.
                let value: Vec<u8> =
                    [0x0200_0001, NET_RAW, 0, 0, 0].iter().flat_map(|w: &u32| w.to_le_bytes()).collect();
                os::setxattr(&path, c"security.capability", &value)?;
            }
            Program::ExecuteOnly => set_mode(&path, 0o711)?,
            Program::Label => os::setxattr(&path, c"security.SMACK64EXEC", b"Executed")?,
        }
        Ok(path)
    }

    /// Whether a process that says this about itself has got what the program gives.
    pub fn is_raised(self, report: &Report) -> bool {
        match self {
            Program::SetUserId => report.euid == 0,
            Program::FileCapability => report.capabilities & u64::from(NET_RAW) != 0,
            // It gets nothing; what counts is whether it can be read.
            Program::ExecuteOnly => false,
            // Under a tracer that may not trace the new label, it does not start at all.
            Program::Label => true,
        }
    }
}

/// What the program says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Where its text lies.
    pub text: u64,
    /// An address in its stack.
    pub stack: u64,
    /// Its effective user id.
    pub euid: u64,
    /// Its effective capabilities.
    pub capabilities: u64,
}

impl Report {
    /// Reads its line.
    pub fn parse(line: &str) -> Option<Report> {
        let mut numbers = line.split_whitespace().map(|number| u64::from_str_radix(number, 16).ok());
        let mut next = || numbers.next().flatten();
        Some(Report { text: next()?, stack: next()?, euid: next()?, capabilities: next()? })
    }
}
