//! What each optimisation of the kernel has brought.
//!
//! The figures are not measured with the page, since each needs a kernel of its own, but kept in the repository:
//!
//! ```json
//! {
//!   "kernel": "7.3.4", "unit": "instructions", "parent": "small",
//!   "results": [
//!     { "patch": "mm: …", "child": "dynamic", "method": "spawn_template", "before": 780000, "after": 700000 }
//!   ]
//! }
//! ```

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::pairs::{self, Pair, change};
use super::text::{escaped, figure};
use super::{headings, method_named, row};
use crate::bench::report::Unit;
use crate::cmd::read_file;
use crate::context::Context;

/// Where the figures are kept.
const FILE: &str = "docs/optimisations.json";

/// All optimisations.
#[derive(Debug, PartialEq, Deserialize)]
pub struct Optimisations {
    kernel: String,
    unit: Unit,
    parent: String,
    results: Vec<Optimisation>,
}

/// What one patch does to one method with one child.
#[derive(Debug, PartialEq, Deserialize)]
struct Optimisation {
    /// The patch's subject, or what several are that were measured together.
    patch: String,
    child: String,
    method: String,
    /// The median without the patch.
    before: u64,
    /// The median with it.
    after: u64,
}

impl Optimisations {
    /// Reads the figures, if there are any yet.
    pub fn read(ctx: &Context) -> Result<Option<Self>> {
        let path = ctx.root.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let found = serde_json::from_str(&read_file(&path)?);
        found.map(Some).with_context(|| {
            format!(
                "{} holds no before and after\n  next: see xtask/src/page/optimisations.rs for what belongs there",
                path.display()
            )
        })
    }

    /// The section, empty without results.
    pub fn section(&self) -> String {
        let mut patches: Vec<&str> = Vec::new();
        for result in &self.results {
            if !patches.contains(&result.patch.as_str()) {
                patches.push(&result.patch);
            }
        }
        if patches.is_empty() {
            return String::new();
        }
        let patches: String = patches.into_iter().map(|patch| self.patch(patch)).collect();
        format!(
            "<section id=\"optimisations\">\n<h2>What each optimisation brings</h2>\n\
             <p>Medians in {}, with the {} parent on Linux {}: grey before the patch, which is the baseline, in colour with \
             it. Patches under one heading were measured together, when they were written; read from <code>{FILE}</code>, not with \
             this page.</p>\n{patches}</section>\n",
            self.unit.thousand(),
            escaped(&self.parent),
            escaped(&self.kernel),
        )
    }

    fn patch(&self, patch: &str) -> String {
        let results = || self.results.iter().filter(|result| result.patch == patch);
        let thousand = |value: u64| value as f64 / 1000.0;
        let name = |result: &Optimisation| format!("{}, {}", result.child, method_named(&result.method));
        let pairs: Vec<Pair> = results()
            .map(|result| Pair {
                name: name(result),
                class: result.method.clone(),
                before: thousand(result.before),
                after: thousand(result.after),
            })
            .collect();
        let rows = results().map(|result| {
            let (before, after) = (thousand(result.before), thousand(result.after));
            row(&result.method, &name(result), [figure(before), figure(after), change(before, after)])
        });
        let unit = self.unit.thousand();
        format!(
            "<h3>{patch}</h3>\n{}<table>\n<caption>{patch}: {unit}</caption>\n{}<tbody>\n{}</tbody></table>\n",
            pairs::svg(unit, &pairs),
            headings(["child, method", "before", "after", "change"]),
            rows.collect::<String>(),
            patch = escaped(patch),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_patch_is_shown_once() {
        let result = |patch: &str, method: &str| {
            format!(
                "{{\"patch\":\"{patch}\",\"child\":\"static\",\"method\":\"{method}\",\"before\":200000,\"after\":150000}}"
            )
        };
        let results = [result("a", "vfork_exec"), result("b", "vfork_exec"), result("a", "spawn_template")].join(",");
        let text =
            format!("{{\"kernel\":\"7.3.4\",\"unit\":\"instructions\",\"parent\":\"small\",\"results\":[{results}]}}");
        let optimisations: Optimisations = serde_json::from_str(&text).unwrap();
        let text = optimisations.section();
        assert_eq!((text.matches("<h3>").count(), text.matches("<svg").count()), (2, 2), "{text}");
        assert!(text.contains("static, vfork+exec") && text.contains("<td>-25.0 %</td>"), "{text}");
    }

    #[test]
    fn the_figures_in_the_repository_are_well_formed() {
        let path = crate::context::repo_root().join(FILE);
        if path.exists() {
            serde_json::from_str::<Optimisations>(&read_file(&path).unwrap()).unwrap();
        }
    }
}
