//! The environment of a child.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{CStr, CString, OsStr, OsString, c_char};
use std::os::unix::ffi::OsStrExt;

use crate::InvalidInput;
use crate::raw::address;

unsafe extern "C" {
    /// The environment of this process, `environ(7)`.
    static environ: *const *const c_char;
}

/// What a child's environment has more or less than the caller's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes {
    /// Whether the child gets nothing of the caller's environment.
    cleared: bool,
    /// By name: the whole `NAME=value`, or `None` for a variable that the child does not get.
    variables: BTreeMap<OsString, Option<CString>>,
}

/// The vector that the kernel is given.
pub(crate) enum Environment {
    /// The caller's own, as it is when the process starts.
    Callers,
    /// Addresses of strings, ended by 0. They belong to the [`Changes`], to the caller's environment, or to the copy.
    Built { vector: Vec<u64>, _copy: Vec<CString> },
}

impl Changes {
    pub(crate) fn set(&mut self, name: &OsStr, value: &OsStr) -> Result<(), InvalidInput> {
        if name.is_empty() || name.as_bytes().contains(&b'=') {
            return Err(InvalidInput::EnvironmentName);
        }
        let variable = CString::new([name.as_bytes(), b"=", value.as_bytes()].concat());
        let variable = variable.map_err(|_| InvalidInput::NulInEnvironment)?;
        self.variables.insert(name.to_owned(), Some(variable));
        Ok(())
    }

    pub(crate) fn remove(&mut self, name: &OsStr) {
        self.variables.insert(name.to_owned(), None);
    }

    pub(crate) fn clear(&mut self) {
        self.cleared = true;
        self.variables.clear();
    }

    pub(crate) fn is_cleared(&self) -> bool {
        self.cleared
    }

    /// The changed variables: `None` for one that is taken out.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&OsStr, Option<&OsStr>)> {
        self.variables.iter().map(|(name, variable)| {
            // What comes after the name and the equals sign.
            let value =
                variable.as_ref().map(|v| OsStr::from_bytes(v.as_bytes().get(name.len() + 1..).unwrap_or_default()));
            (name.as_os_str(), value)
        })
    }

    /// The child's `PATH`.
    pub(crate) fn path(&self) -> Option<OsString> {
        match self.iter().find(|(name, _)| *name == "PATH") {
            Some((_, value)) => value.map(OsStr::to_owned),
            None if self.cleared => None,
            None => env::var_os("PATH"),
        }
    }

    /// The environment of a child that is started now, or later with a copy of the caller's variables.
    pub(crate) fn environment(&self, copy: bool) -> Environment {
        if !copy && !self.cleared && self.variables.is_empty() {
            return Environment::Callers;
        }
        let mut copies = Vec::new();
        let mut vector = Vec::new();
        if !self.cleared {
            for variable in callers().filter(|variable| !self.has(variable)) {
                if copy {
                    copies.push(variable.to_owned());
                } else {
                    vector.push(address(variable.as_ptr()));
                }
            }
        }
        vector.extend(copies.iter().map(|variable| address(variable.as_ptr())));
        vector.extend(self.variables.values().flatten().map(|variable| address(variable.as_ptr())));
        vector.push(0);
        Environment::Built { vector, _copy: copies }
    }

    /// Whether this is about the variable `NAME=value`.
    fn has(&self, variable: &CStr) -> bool {
        if self.variables.is_empty() {
            return false;
        }
        let name = variable.to_bytes().split(|&byte| byte == b'=').next().unwrap_or_default();
        self.variables.contains_key(OsStr::from_bytes(name))
    }
}

impl Environment {
    /// The pointer that `execve(2)` takes.
    pub(crate) fn as_ptr(&self) -> *const *const c_char {
        match self {
            // SAFETY: whoever changes the environment has to make sure that no other thread reads it meanwhile; see
            // std::env::set_var() and setenv(3).
            Environment::Callers => unsafe { environ },
            Environment::Built { vector, .. } => vector.as_ptr().cast(),
        }
    }
}

/// The variables of this process. Only to be used before anything could change them.
fn callers() -> impl Iterator<Item = &'static CStr> {
    // SAFETY: as in Environment::as_ptr().
    let mut next = unsafe { environ };
    std::iter::from_fn(move || {
        if next.is_null() {
            return None;
        }
        // SAFETY: the vector ends with a null pointer, and `next` has not gone past that.
        let variable = unsafe { *next };
        if variable.is_null() {
            return None;
        }
        // SAFETY: the null pointer is still to come.
        next = unsafe { next.add(1) };
        // SAFETY: the elements of the vector are C strings.
        Some(unsafe { CStr::from_ptr(variable) })
    })
}
