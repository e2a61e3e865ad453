//! What a start costs over the memory that the caller has touched.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::report::{METHODS, Sample, thousands};

/// The points of the curve, in MiB touched. The first is the program as it starts.
pub const SIZES: [u64; 7] = [0, 1, 4, 16, 64, 256, 1024];

/// Enough for the largest of [`SIZES`].
pub const MEMORY: &str = "2G";

/// The child: the smallest, with which the caller's memory shows most.
pub const CHILD: &str = "libc-free";

/// The cost of one method in a caller with so much memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// What the caller has touched.
    pub mib: u64,
    /// The program that is started.
    pub child: String,
    /// How it is started.
    pub method: String,
    /// How many samples were taken.
    pub n: u64,
    /// A tenth of the samples are not above this.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// Nine tenths of the samples are not above this.
    pub p90: u64,
}

/// guest-bench's name of the caller with so much memory.
pub fn parent(mib: u64) -> String {
    format!("touched{mib}m")
}

impl Size {
    /// The result of guest-bench as a point, if its parent is one of those.
    pub fn new(sample: &Sample) -> Option<Self> {
        let Sample { child, method, parent, n, p10, p50, p90, typical: _ } = sample.clone();
        let mib = parent.strip_prefix("touched")?.strip_suffix('m')?.parse().ok()?;
        Some(Self { mib, child, method, n, p10, p50, p90 })
    }
}

/// The amounts of memory there are results of, and the methods, each in order.
pub fn axes(sizes: &[Size]) -> (Vec<u64>, Vec<&'static str>) {
    let mut amounts: Vec<u64> = sizes.iter().map(|size| size.mib).collect();
    amounts.sort_unstable();
    amounts.dedup();
    let methods = METHODS.into_iter().filter(|method| sizes.iter().any(|size| size.method == *method));
    (amounts, methods.collect())
}

/// The result of a method with so much memory.
pub fn find<'a>(sizes: &'a [Size], mib: u64, method: &str) -> Option<&'a Size> {
    sizes.iter().find(|size| size.mib == mib && size.method == method)
}

/// The table for people; `unit` is what a thousand of the unit are called.
pub fn table(sizes: &[Size], unit: &str) -> String {
    let (amounts, methods) = axes(sizes);
    // Writing to a String cannot fail.
    let mut text = String::new();
    let _ =
        writeln!(text, "What starting the {CHILD} child costs over the memory the caller has touched, median, {unit}");
    let cells = |cells: &mut dyn Iterator<Item = String>| cells.map(|cell| format!(" {cell:>14}")).collect::<String>();
    let _ = writeln!(text, "{:>8}{}", "MiB", cells(&mut methods.iter().map(ToString::to_string)));
    for mib in amounts {
        let cell = |method: &&str| find(sizes, mib, method).map_or("-".into(), |size| thousands(size.p50));
        let _ = writeln!(text, "{mib:>8}{}", cells(&mut methods.iter().map(cell)));
    }
    text
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A result with these figures.
    pub fn size(mib: u64, method: &str, p50: u64) -> Size {
        let (child, method) = (CHILD.into(), method.into());
        Size { mib, child, method, n: 9, p10: p50 - p50 / 100, p50, p90: p50 + p50 / 100 }
    }

    #[test]
    fn parents_are_told_by_their_names() {
        let Size { mib, child, method, n, p10, p50, p90 } = size(64, "clone3", 1000);
        let sample = |parent: String| Sample {
            child: child.clone(),
            method: method.clone(),
            parent,
            n,
            p10,
            p50,
            p90,
            typical: p50,
        };
        assert_eq!(Size::new(&sample(parent(mib))), Some(size(64, "clone3", 1000)));
        assert_eq!(Size::new(&sample("rss256m".into())), None);
    }

    #[test]
    fn the_table_has_a_row_for_each_amount() {
        let sizes =
            [size(16, "fork_exec", 1_500_000), size(0, "spawn_template", 130_000), size(0, "fork_exec", 250_000)];
        let table = table(&sizes, "apples");
        let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            rows,
            [vec!["MiB", "fork_exec", "spawn_template"], vec!["0", "250.0", "130.0"], vec!["16", "1500.0", "-"]]
        );
        assert!(table.contains("apples"));
    }
}
