//! What a start costs over the caller's memory.

use super::curves::{self, Curve};
use super::text::{escaped, figure};
use super::{headings, method_named, row, with_ratio};
use crate::bench::document::Document;
use crate::bench::sizes::{axes, find};

/// The section, empty without results.
pub fn section(document: &Document) -> String {
    let sizes = &document.sizes;
    let (amounts, methods) = axes(sizes);
    let (Some(&least), Some(first)) = (amounts.first(), sizes.first()) else { return String::new() };
    let unit = document.unit.thousand();
    let curve = |method: &&'static str| Curve {
        name: method_named(method),
        class: method,
        points: amounts
            .iter()
            .filter_map(|&mib| Some((mib as f64, find(sizes, mib, method)?.p50 as f64 / 1000.0)))
            .collect(),
    };
    let curves: Vec<Curve> = methods.iter().map(curve).collect();
    let rows: String = amounts
        .iter()
        .map(|&mib| {
            let cells = methods.iter().map(|method| {
                let Some(size) = find(sizes, mib, method) else { return "–".to_owned() };
                let baseline = find(sizes, least, method);
                let ratio = baseline.map(|baseline| size.p50 as f64 / baseline.p50.max(1) as f64);
                with_ratio(&figure(size.p50 as f64 / 1000.0), ratio)
            });
            row("", &format!("{mib} MiB"), cells)
        })
        .collect();
    let columns = ["touched".to_owned()].into_iter().chain(methods.iter().map(|method| method_named(method)));
    format!(
        "<section id=\"sizes\">\n<h2>Cost over the caller’s memory</h2>\n\
         <p>Starting the {child} child from a caller that has written to so much anonymous memory in small pages, beyond \
         its own few. Medians in {unit}; both axes are logarithmic. fork copies the caller’s page tables, so its cost \
         grows with them; the others do not look at them. This is the curve of “A fork() in the road” (Baumann and others, \
         HotOS 2019).</p>\n{}<table>\n\
         <caption>Median in {unit}, and as a multiple of the same method’s with {least} MiB touched, its baseline</caption>\n\
         {}<tbody>\n{rows}</tbody></table>\n</section>\n",
        curves::svg("MiB that the caller has touched", unit, &curves),
        headings(columns),
        child = escaped(&first.child),
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::document;
    use super::*;

    #[test]
    fn growth_is_shown() {
        let text = section(&document());
        let expected = "<th scope=\"row\">64 MiB</th><td>5 000 <span class=\"ratio\">20.00×</span></td>";
        assert!(text.contains(expected), "{text}");
        assert!(
            text.contains("<td>250.0 <span class=\"ratio\">1.00×</span></td>") && text.contains("<polyline"),
            "{text}"
        );
    }
}
