//! What was measured, on what, and how to do it again.

use super::text::escaped;
use crate::bench::document::Document;
use crate::bench::report::{Setup, Unit};

/// The page's beginning.
pub fn header(document: &Document) -> String {
    let Document { kernel, accel, unit, results, machine, sizes, .. } = document;
    let unknown = || "not recorded".to_owned();
    let setup = Setup::new(*unit);
    let mut facts = vec![
        ("kernel", format!("Linux {kernel}")),
        ("accelerator", accel.clone()),
        ("CPU model", machine.as_ref().map_or_else(unknown, |machine| machine.cpu.clone())),
    ];
    if !results.is_empty() {
        facts.push(("machine", machine.as_ref().map_or_else(unknown, |machine| setup.described(1, machine))));
        facts.push(("unit", format!("{}, from the call until the child is reaped", unit.thousand())));
        let least = results.iter().map(|sample| sample.n).min().unwrap_or(0);
        let most = results.iter().map(|sample| sample.n).max().unwrap_or(0);
        let sized = sizes.iter().map(|size| size.n).max().map(|most| format!("; up to {most} over the memory"));
        let sized = sized.unwrap_or_default();
        facts.push((
            "iterations",
            format!("{least} to {most} of each, fewer where one takes long, in random turns{sized}"),
        ));
    }
    if let (Unit::Ns, Some(machine)) = (unit, machine) {
        let cost = machine.cpuid_ns;
        facts.push(("CPUID", format!("{cost} ns each here, and a glibc program executes 68 of them as it starts")));
    }
    let facts: String =
        facts.iter().map(|(name, fact)| format!("<dt>{name}</dt><dd>{}</dd>\n", escaped(fact))).collect();
    format!(
        "<h1>What starting a program costs</h1>\n<dl>\n{facts}\
         <dt>measure again</dt><dd><code>cargo xtask bench --report DIR</code></dd>\n\
         <dt>draw again</dt><dd><code>cargo xtask bench --report DIR --from bench.json</code>, \
         with the figures that lie beside this page</dd>\n</dl>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::document;
    use super::*;
    use crate::bench::report::Machine;

    #[test]
    fn the_header_says_what_was_measured() {
        let mut document = document();
        let text = header(&document);
        for expected in ["not recorded", "thousand guest instructions", "9 to 9 of each", "--report DIR"] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
        document.machine =
            Some(Machine { kernel: "7".into(), cpu: "QEMU CPU".into(), cpuid_ns: 1, clocksource: "tsc".into() });
        let text = header(&document);
        assert!(text.contains("<dd>QEMU CPU</dd>") && text.contains("-icount") && !text.contains("CPUID"), "{text}");
        document.unit = Unit::Ns;
        assert!(header(&document).contains("CPUID"));
    }
}
