//! The environment of a child.

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
    /// In order of their names, each at most once.
    variables: Vec<Variable>,
}

/// A variable that is set or taken out.
#[derive(Debug, Clone)]
struct Variable {
    /// `NAME=value`; of one that is taken out only `NAME=`.
    text: CString,
    /// The length of the name.
    name: usize,
    set: bool,
}

impl Variable {
    /// `None` if there is a NUL byte.
    fn new(name: &[u8], value: Option<&[u8]>) -> Option<Self> {
        let bytes = value.unwrap_or_default();
        // With room for the NUL byte, so that making a C string of it does not move it.
        let mut text = Vec::with_capacity(name.len() + bytes.len() + 2);
        text.extend_from_slice(name);
        text.push(b'=');
        text.extend_from_slice(bytes);
        let text = CString::new(text).ok()?;
        Some(Variable { text, name: name.len(), set: value.is_some() })
    }

    fn name(&self) -> &[u8] {
        self.text.as_bytes().get(..self.name).unwrap_or_default()
    }

    fn value(&self) -> Option<&[u8]> {
        // After the equals sign.
        self.set.then(|| self.text.as_bytes().get(self.name + 1..).unwrap_or_default())
    }
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
        let variable = Variable::new(name.as_bytes(), Some(value.as_bytes()));
        self.insert(variable.ok_or(InvalidInput::NulInEnvironment)?);
        Ok(())
    }

    pub(crate) fn remove(&mut self, name: &OsStr) {
        // No variable has a name with a NUL byte.
        if let Some(variable) = Variable::new(name.as_bytes(), None) {
            self.insert(variable);
        }
    }

    fn insert(&mut self, variable: Variable) {
        match self.find(variable.name()) {
            Ok(index) => self.variables[index] = variable,
            Err(index) => self.variables.insert(index, variable),
        }
    }

    /// Where the variable with this name is, or belongs.
    fn find(&self, name: &[u8]) -> Result<usize, usize> {
        self.variables.binary_search_by(|variable| variable.name().cmp(name))
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
        self.variables
            .iter()
            .map(|variable| (OsStr::from_bytes(variable.name()), variable.value().map(OsStr::from_bytes)))
    }

    /// The child's `PATH`.
    pub(crate) fn path(&self) -> Option<OsString> {
        match self.find(b"PATH").ok().and_then(|index| self.variables.get(index)) {
            Some(variable) => variable.value().map(|value| OsStr::from_bytes(value).to_owned()),
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
        let mut vector = Vec::with_capacity(self.variables.len() + 1);
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
        let set = self.variables.iter().filter(|variable| variable.set);
        vector.extend(set.map(|variable| address(variable.text.as_ptr())));
        vector.push(0);
        Environment::Built { vector, _copy: copies }
    }

    /// Whether this is about the variable `NAME=value`.
    fn has(&self, variable: &CStr) -> bool {
        if self.variables.is_empty() {
            return false;
        }
        let name = variable.to_bytes().split(|&byte| byte == b'=').next().unwrap_or_default();
        self.find(name).is_ok()
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
