//! What the child program `show` prints.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

/// Its lines, as key and value, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Show(Vec<(String, String)>);

impl Show {
    /// Reads its output.
    pub fn parse(output: &[u8]) -> Show {
        let text = String::from_utf8_lossy(output);
        let split = |line: &str| line.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        Show(text.lines().filter_map(split).collect())
    }

    /// The first value of a key, or an empty string.
    pub fn get(&self, key: &str) -> &str {
        self.0.iter().find(|(k, _)| k == key).map_or("", |(_, v)| v)
    }

    /// All values of a key.
    pub fn all(&self, key: &str) -> Vec<&str> {
        self.0.iter().filter(|(k, _)| k == key).map(|(_, v)| v.as_str()).collect()
    }

    /// The value of a key whose value is a hexadecimal mask, such as `status.SigBlk`.
    pub fn mask(&self, key: &str) -> u64 {
        u64::from_str_radix(self.get(key), 16).unwrap_or(u64::MAX)
    }

    /// The numbers in a value, whatever separates them: `status.Uid`, `sched`, ...
    pub fn numbers(&self, key: &str) -> Vec<i64> {
        let value = self.get(key).replace("\\x09", " ");
        value.split_whitespace().filter_map(|number| number.parse().ok()).collect()
    }

    /// The soft and the hard limit of a resource.
    pub fn limit(&self, resource: libc::__rlimit_resource_t) -> Vec<u64> {
        let value = self.get(&format!("limit.{resource}"));
        value.split(' ').filter_map(|number| number.parse().ok()).collect()
    }

    /// The open descriptors and what they are.
    pub fn fds(&self) -> BTreeMap<RawFd, String> {
        let split = |value: &str| {
            let mut parts = value.splitn(3, ' ');
            let fd = parts.next()?.parse().ok()?;
            Some((fd, parts.nth(1)?.to_owned()))
        };
        self.all("fd").into_iter().filter_map(split).collect()
    }

    /// The numbers of the open descriptors.
    pub fn fd_numbers(&self) -> Vec<RawFd> {
        self.fds().into_keys().collect()
    }

    /// The lines whose key does not start like this, for comparing two runs.
    pub fn without_prefix(&self, prefix: &str) -> Vec<(String, String)> {
        self.0.iter().filter(|(k, _)| !k.starts_with(prefix)).cloned().collect()
    }

    /// The lines without these keys, for comparing two runs.
    pub fn without(&self, keys: &[&str]) -> Vec<(String, String)> {
        self.0.iter().filter(|(k, _)| !keys.contains(&k.as_str())).cloned().collect()
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn parsing() {
        let show = Show::parse(b"argc=1\narg=a=b\nfd=0 - /dev/null\nfd=1 cloexec pipe:[1]\nstatus.SigBlk=0a\nend=\n");
        assert_eq!(show.get("arg"), "a=b");
        assert_eq!(show.fd_numbers(), [0, 1]);
        assert_eq!(show.fds()[&1], "pipe:[1]");
        assert_eq!(show.mask("status.SigBlk"), 10);
        assert_eq!(show.without(&["fd", "arg", "argc"]).len(), 2);
    }
}
