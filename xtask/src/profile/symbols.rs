//! Which function an address belongs to, by the guest's own /proc/kallsyms: it knows where the kernel was put, and the
//! module.

use std::cmp::Reverse;

/// The functions of a running kernel.
#[derive(Debug, Default)]
pub struct Symbols {
    /// Where each begins and what it is called, in the order of the addresses.
    functions: Vec<(u64, String)>,
}

impl Symbols {
    /// Reads lines such as `ffffffff81000000 T _stext` and `ffffffffc0000010 t start\t[module]`; others are left out.
    pub fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut found: Vec<_> = lines.into_iter().filter_map(symbol).collect();
        // Of several names of one place not that of a section, then the global, then the plainest.
        found.sort_by_cached_key(|&(address, kind, name)| {
            let underscores = name.bytes().take_while(|&byte| byte == b'_').count();
            let is_border = ["_start", "_end", "_begin", "stext"].iter().any(|end| name.ends_with(end));
            (address, is_border, Reverse(kind == 'T'), Reverse(kind == 't'), underscores, name.len())
        });
        found.dedup_by_key(|symbol| symbol.0);
        Self { functions: found.into_iter().map(|(address, _, name)| (address, readable(name))).collect() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }

    /// The function that `address` lies in.
    pub fn function(&self, address: u64) -> &str {
        let after = self.functions.partition_point(|function| function.0 <= address);
        after.checked_sub(1).map_or("(unknown)", |index| &self.functions[index].1)
    }
}

fn symbol(line: &str) -> Option<(u64, char, &str)> {
    let mut words = line.split_ascii_whitespace();
    let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
    let address = u64::from_str_radix(address, 16).ok()?;
    let kind = kind.chars().next().filter(|kind| "tTwW".contains(*kind))?;
    Some((address, kind, name))
}

/// A name without what compilers add: `.llvm.123`, and `.cold` for the part of a function that lies elsewhere.
fn readable(name: &str) -> String {
    let plain = name.split_once('.').map_or(name, |(plain, _)| plain);
    match rustc_demangle::try_demangle(plain) {
        Ok(rust) => format!("{rust:#}"),
        Err(_) if plain.is_empty() => name.to_owned(),
        Err(_) => plain.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lie_in_the_function_before_them() {
        let symbols = Symbols::parse([
            "ffffffff81000020 t second.llvm.4711",
            "ffffffff81000010 T first",
            "ffffffff81000018 d data",
            "nonsense",
            "ffffffffc0000000 t in_module\t[spawn_template]",
        ]);
        assert_eq!(symbols.function(0xffff_ffff_8100_000f), "(unknown)");
        assert_eq!(symbols.function(0xffff_ffff_8100_0010), "first");
        assert_eq!(symbols.function(0xffff_ffff_8100_001f), "first");
        assert_eq!(symbols.function(0xffff_ffff_8100_0020), "second");
        assert_eq!(symbols.function(u64::MAX), "in_module");
        assert!(Symbols::parse([]).is_empty());
    }

    #[test]
    fn one_name_of_several() {
        let symbols = Symbols::parse(["10 T __text_start", "10 W weak", "10 T __alias", "10 T real", "10 t local"]);
        assert_eq!(symbols.function(0x10), "real");
    }

    #[test]
    fn names_are_made_readable() {
        assert_eq!(readable("do_exit.cold"), "do_exit");
        assert_eq!(readable("_RNvNtCs1234_14spawn_template5spawn3run"), "spawn_template::spawn::run");
    }
}
