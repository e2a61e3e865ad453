//! The environment of a child.

use std::env;
use std::ffi::{CStr, CString, OsStr, OsString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

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
    /// The variables, one after the other in no order: `NAME=value` and a NUL byte; of one that is taken out only
    /// `NAME=` and that byte. Together, because one allocation for each would cost more than all else here.
    texts: Vec<u8>,
    /// In order of their names, each at most once.
    variables: Vec<Variable>,
    /// What the kernel is given where nothing of the caller's is in it, for a command that is used again.
    whole: Whole,
}

/// The vector of a whole environment, once somebody has asked for it. A clone is empty: its strings lie elsewhere.
#[derive(Debug, Default)]
struct Whole(OnceLock<Vec<u64>>);

impl Clone for Whole {
    fn clone(&self) -> Self {
        Whole::default()
    }
}

/// A variable that is set or taken out.
#[derive(Debug, Clone, Copy)]
struct Variable {
    /// Where its text begins.
    start: usize,
    /// The length of its text, without the NUL byte.
    len: usize,
    /// The length of the name.
    name: usize,
    set: bool,
}

/// The vector that the kernel is given.
pub(crate) enum Environment<'c> {
    /// The caller's own, as it is when the process starts.
    Callers,
    /// Addresses of strings that belong to the [`Changes`], ended by 0.
    Whole(&'c [u64]),
    /// Addresses of strings, ended by 0. They belong to the [`Changes`], to the caller's environment, or to the copy.
    Built { vector: Vec<u64>, _copy: Vec<CString> },
}

impl Changes {
    /// Makes room for more variables, as long as such usually are.
    pub(crate) fn reserve(&mut self, variables: usize) {
        self.whole = Whole::default();
        self.variables.reserve(variables);
        self.texts.reserve(variables.saturating_mul(32));
    }

    pub(crate) fn set(&mut self, name: &OsStr, value: &OsStr) -> Result<(), InvalidInput> {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        match name.iter().find(|byte| matches!(byte, 0 | b'=')) {
            Some(b'=') => Err(InvalidInput::EnvironmentName),
            None if name.is_empty() => Err(InvalidInput::EnvironmentName),
            None if !value.contains(&0) => {
                self.put(name, Some(value));
                Ok(())
            }
            _ => Err(InvalidInput::NulInEnvironment),
        }
    }

    pub(crate) fn remove(&mut self, name: &OsStr) {
        // No variable has such a name.
        if !name.as_bytes().contains(&0) {
            self.put(name.as_bytes(), None);
        }
    }

    fn put(&mut self, name: &[u8], value: Option<&[u8]>) {
        self.whole = Whole::default();
        let place = self.find(name);
        if let Ok(index) = place {
            self.forget(index);
        }
        let start = self.texts.len();
        let text = value.unwrap_or_default();
        for part in [name, b"=", text, b"\0"] {
            self.texts.extend_from_slice(part);
        }
        let variable = Variable { start, len: name.len() + 1 + text.len(), name: name.len(), set: value.is_some() };
        match place {
            Ok(index) => self.variables[index] = variable,
            Err(index) => self.variables.insert(index, variable),
        }
    }

    /// Takes the text of the variable with this index out, so that a command whose variables are set again and again does
    /// not grow.
    fn forget(&mut self, index: usize) {
        let Variable { start, len, .. } = self.variables[index];
        let end = start + len + 1;
        self.texts.drain(start..end);
        for variable in self.variables.iter_mut().filter(|variable| variable.start >= end) {
            variable.start -= end - start;
        }
    }

    /// Where the variable with this name is, or belongs.
    fn find(&self, name: &[u8]) -> Result<usize, usize> {
        self.variables.binary_search_by(|variable| self.name(variable).cmp(name))
    }

    /// The bytes from `from` to `to` of a variable's text.
    fn part(&self, variable: &Variable, from: usize, to: usize) -> &[u8] {
        self.texts.get(variable.start + from..variable.start + to).unwrap_or_default()
    }

    fn name(&self, variable: &Variable) -> &[u8] {
        self.part(variable, 0, variable.name)
    }

    fn value(&self, variable: &Variable) -> Option<&[u8]> {
        // After the equals sign.
        variable.set.then(|| self.part(variable, variable.name + 1, variable.len))
    }

    pub(crate) fn clear(&mut self) {
        self.cleared = true;
        self.whole = Whole::default();
        self.variables.clear();
        self.texts.clear();
    }

    pub(crate) fn is_cleared(&self) -> bool {
        self.cleared
    }

    /// The changed variables: `None` for one that is taken out.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&OsStr, Option<&OsStr>)> {
        self.variables
            .iter()
            .map(|variable| (OsStr::from_bytes(self.name(variable)), self.value(variable).map(OsStr::from_bytes)))
    }

    /// The child's `PATH`.
    pub(crate) fn path(&self) -> Option<OsString> {
        match self.find(b"PATH").ok().and_then(|index| self.variables.get(index)) {
            Some(variable) => self.value(variable).map(|value| OsStr::from_bytes(value).to_owned()),
            None if self.cleared => None,
            None => env::var_os("PATH"),
        }
    }

    /// The environment of a child that is started now, or later with a copy of the caller's variables.
    pub(crate) fn environment(&self, copy: bool) -> Environment<'_> {
        if self.cleared {
            return Environment::Whole(self.whole.0.get_or_init(|| self.vector(Vec::new())));
        }
        if !copy && self.variables.is_empty() {
            return Environment::Callers;
        }
        let (mut copies, mut vector) = (Vec::new(), Vec::new());
        for variable in callers().filter(|variable| !self.has(variable)) {
            if copy {
                copies.push(variable.to_owned());
            } else {
                vector.push(address(variable.as_ptr()));
            }
        }
        vector.extend(copies.iter().map(|variable| address(variable.as_ptr())));
        Environment::Built { vector: self.vector(vector), _copy: copies }
    }

    /// The vector that begins like this, with the variables that are set.
    fn vector(&self, mut vector: Vec<u64>) -> Vec<u64> {
        vector.reserve_exact(self.variables.len() + 1);
        let texts = self.texts.as_ptr();
        for variable in &self.variables {
            if variable.set {
                vector.push(address(texts.wrapping_add(variable.start)));
            }
        }
        vector.push(0);
        vector
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

impl Environment<'_> {
    /// The pointer that `execve(2)` takes.
    pub(crate) fn as_ptr(&self) -> *const *const c_char {
        match self {
            // SAFETY: code that changes the environment has to make sure that no other thread reads it meanwhile; see
            // std::env::set_var() and setenv(3).
            Environment::Callers => unsafe { environ },
            Environment::Whole(vector) => vector.as_ptr().cast(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_environment_is_that_of_the_moment() -> Result<(), InvalidInput> {
        let whole = |changes: &Changes| match changes.environment(false) {
            Environment::Whole(vector) => vector.to_vec(),
            _ => Vec::new(),
        };
        let expected = |changes: &Changes| changes.vector(Vec::new());
        let mut changes = Changes::default();
        assert!(matches!(changes.environment(false), Environment::Callers));
        changes.clear();
        assert_eq!(whole(&changes), [0]);
        changes.set("A".as_ref(), "1".as_ref())?;
        assert_eq!((whole(&changes).len(), whole(&changes)), (2, expected(&changes)));
        changes.reserve(1000);
        assert_eq!(whole(&changes), expected(&changes));
        changes.set("B".as_ref(), "2".as_ref())?;
        assert_eq!((whole(&changes).len(), whole(&changes)), (3, expected(&changes)));
        let copy = changes.clone();
        assert_ne!(whole(&copy), whole(&changes));
        assert_eq!(whole(&copy), expected(&copy));
        changes.remove("A".as_ref());
        assert_eq!((whole(&changes).len(), whole(&changes)), (2, expected(&changes)));
        Ok(())
    }

    #[test]
    fn variables_that_are_set_again_take_no_more_room() -> Result<(), InvalidInput> {
        let mut changes = Changes::default();
        for value in ["1", "longer", "", "22"] {
            changes.set("B".as_ref(), value.as_ref())?;
            changes.set("AA".as_ref(), "first".as_ref())?;
            changes.remove("C".as_ref());
            changes.set("AA".as_ref(), value.as_ref())?;
        }
        let found: Vec<_> = changes.iter().collect();
        let os = OsStr::new;
        assert_eq!(found, [(os("AA"), Some(os("22"))), (os("B"), Some(os("22"))), (os("C"), None)]);
        assert_eq!(changes.texts.len(), b"AA=22\0B=22\0C=\0".len());
        Ok(())
    }
}
