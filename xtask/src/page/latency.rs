//! What every method costs with every child and parent.

use super::bars::{self, Bar, Group};
use super::text::{self, escaped, figure};
use super::{headings, method_named, row};
use crate::bench::document::Document;
use crate::bench::report::{BASELINES, METHODS, Sample, blocks};

/// The section, empty without results.
pub fn section(document: &Document) -> String {
    let parents: String =
        blocks().map(|(parent, heading, children)| block(document, parent, heading, children)).collect();
    if parents.is_empty() {
        return parents;
    }
    let unit = document.unit.thousand();
    format!(
        "<section id=\"latency\">\n<h2>Cost of one start</h2>\n\
         <p>Bars are medians with whiskers from the 10th to the 90th percentile, in {unit}, from the call until the child \
         is reaped: less is better. Each table has the same figures. Its last columns have each median as a multiple of that \
         of the method at the column’s top, the baseline, with the same child and parent: below 1 is cheaper.</p>\n\
         {}{parents}</section>\n",
        legend()
    )
}

/// The colours.
fn legend() -> String {
    let item = |method: &str| format!("<li class=\"{method}\"><i></i>{}</li>", method_named(method));
    format!("<ul class=\"legend\">{}</ul>\n", METHODS.into_iter().map(item).collect::<String>())
}

/// One parent.
fn block(document: &Document, parent: &str, heading: &str, children: &[&str]) -> String {
    let samples: Vec<&Sample> = document.results.iter().filter(|sample| sample.parent == parent).collect();
    let of_child = |child: &str| -> Vec<(&'static str, &Sample)> {
        let sample = |method: &str| samples.iter().find(|sample| sample.child == child && sample.method == method);
        METHODS.into_iter().filter_map(|method| Some((method, *sample(method)?))).collect()
    };
    let children: Vec<_> = children.iter().map(|&child| (child, of_child(child))).collect();
    if children.iter().all(|(_, samples)| samples.is_empty()) {
        return String::new();
    }
    let groups: Vec<Group> = children.iter().map(|(child, samples)| group(child, samples)).collect();
    let baselines = METHODS[..BASELINES].iter();
    let columns = ["method", "median", "p10", "p90", "samples"].map(str::to_owned).into_iter();
    let columns = columns.chain(baselines.map(|baseline| format!("× {}", method_named(baseline))));
    let unit = document.unit.thousand();
    let bodies: String = children.iter().map(|(child, samples)| body(child, samples)).collect();
    format!(
        "<h3>{heading}</h3>\n{}<table>\n<caption>{heading}: median, p10 and p90 in {unit}</caption>\n{}{bodies}</table>\n",
        bars::svg(unit, &groups),
        headings(columns),
        heading = escaped(heading),
    )
}

fn group(child: &str, samples: &[(&'static str, &Sample)]) -> Group {
    let bars = samples.iter().map(|&(class, sample)| Bar {
        name: format!("{}, {child} child", method_named(class)),
        class,
        value: thousand(sample.p50),
        spread: (thousand(sample.p10), thousand(sample.p90)),
    });
    Group { name: format!("{child} child"), bars: bars.collect() }
}

/// The rows of one child.
fn body(child: &str, samples: &[(&'static str, &Sample)]) -> String {
    let ratio = |sample: &Sample, baseline: &str| {
        let found = samples.iter().find(|(method, _)| *method == baseline)?.1;
        Some(sample.p50 as f64 / found.p50.max(1) as f64)
    };
    let rows = samples.iter().map(|&(method, sample)| {
        let figures = [sample.p50, sample.p10, sample.p90].map(|value| figure(thousand(value))).into_iter();
        let baselines = METHODS[..BASELINES].iter().map(|baseline| {
            let ratio = ratio(sample, baseline).filter(|_| *baseline != method);
            ratio.map_or("–".into(), text::ratio)
        });
        row(method, &method_named(method), figures.chain([sample.n.to_string()]).chain(baselines))
    });
    let rows: String = rows.collect();
    let heading =
        format!("<tr><th colspan=\"9\" scope=\"rowgroup\" class=\"child\">{} child</th></tr>", escaped(child));
    if rows.is_empty() { rows } else { format!("<tbody>\n{heading}\n{rows}</tbody>\n") }
}

fn thousand(value: u64) -> f64 {
    value as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::super::tests::document;
    use super::*;

    #[test]
    fn every_method_is_compared_with_every_baseline() {
        let text = section(&document());
        let expected = "<tr class=\"spawn_template\"><th scope=\"row\">spawn_template</th><td>100.0</td><td>99.0</td>\
                        <td>101.0</td><td>9</td><td>0.25</td><td>0.50</td><td>0.33</td><td>0.40</td></tr>";
        assert!(text.contains(expected), "{text}");
        assert_eq!(text.matches("<td>–</td>").count(), 4, "{text}");
        assert!(text.contains("× fork+exec") && text.contains("small parent") && !text.contains("256 MiB"), "{text}");
    }
}
