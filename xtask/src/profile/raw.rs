//! What the plugin writes: instructions by call path and address.

use anyhow::{Context as _, Result, bail, ensure};

/// No call: the kernel's entries, and user space.
const ROOT: usize = 0;

/// The plugin's file.
#[derive(Debug, Default)]
pub struct Raw {
    /// How many samples were taken.
    pub samples: u64,
    /// Where the mark lies, in the program that starts the others.
    pub mark: u64,
    /// The call before, and the return address. Call N is at N - 1.
    calls: Vec<(usize, u64)>,
    /// The call, the address of the block and the number of instructions.
    pub counts: Vec<(usize, u64, u64)>,
}

impl Raw {
    /// Reads the file.
    pub fn parse(text: &str) -> Result<Self> {
        let mut raw = Self::default();
        for line in text.lines() {
            raw.line(line).with_context(|| format!("the profiler's plugin wrote {line:?}"))?;
        }
        ensure!(raw.samples > 0, "the profiler's plugin saw no sample");
        Ok(raw)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split(' ').collect();
        let address = |text| u64::from_str_radix(text, 16);
        match words[..] {
            ["samples", count] => self.samples = count.parse()?,
            ["mark", at] => self.mark = address(at)?,
            ["call", before, site] => {
                let before = before.parse()?;
                ensure!(before <= self.calls.len(), "which names a call that comes later");
                self.calls.push((before, address(site)?));
            }
            ["count", call, block, count] => {
                let call = call.parse()?;
                ensure!(call <= self.calls.len(), "which names a call that does not exist");
                self.counts.push((call, address(block)?, count.parse()?));
            }
            _ => bail!("which means nothing"),
        }
        Ok(())
    }

    /// The return addresses of the calls that led to `call` and of itself, outermost first.
    pub fn path(&self, mut call: usize) -> Vec<u64> {
        let mut path = Vec::new();
        while call != ROOT {
            let (before, site) = self.calls[call - 1];
            path.push(site);
            call = before;
        }
        path.reverse();
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_followed() {
        let raw =
            Raw::parse("samples 2\nmark 4f\ncall 0 a\ncall 1 b\ncall 1 c\ncount 3 ff 7\ncount 0 1000 1\n").unwrap();
        assert_eq!((raw.samples, raw.mark), (2, 0x4f));
        assert_eq!(raw.counts, [(3, 0xff, 7), (0, 0x1000, 1)]);
        assert_eq!(raw.path(3), [0xa, 0xc]);
        assert!(raw.path(0).is_empty());
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Raw::parse("samples 1\ncall 1 a\n").is_err());
        assert!(Raw::parse("samples 1\ncount 1 a 1\n").is_err());
        assert!(Raw::parse("samples 1\nhello\n").is_err());
        assert!(Raw::parse("samples 0\n").is_err());
        assert!(Raw::parse("").is_err());
    }
}
