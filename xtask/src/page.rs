//! The results on one page of HTML that needs nothing else: no script, no font, no other file.
//!
//! One file per section, and one per kind of plot. Sections are left out where there is nothing to show.

mod bars;
mod curves;
mod header;
mod latency;
mod optimisations;
mod pairs;
mod scale;
mod scaling;
mod sizes;
pub mod text;

use crate::bench::document::Document;
pub use optimisations::Optimisations;
use text::escaped;

const STYLE: &str = include_str!("page/style.css");

/// The page.
pub fn html(document: &Document, optimisations: Option<&Optimisations>) -> String {
    let sections = [
        latency::section(document),
        sizes::section(document),
        scaling::section(document),
        optimisations.map(Optimisations::section).unwrap_or_default(),
    ];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>What starting a program costs, Linux {}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         {}{}</body>\n</html>\n",
        escaped(&document.kernel),
        header::header(document),
        sections.concat(),
    )
}

/// What people call a method. Its own name is its class in the style sheet.
fn method_named(method: &str) -> String {
    method.replace("_exec", "+exec")
}

/// One row of a table: its class, a heading, and cells that are HTML already.
fn row(class: &str, heading: &str, cells: impl IntoIterator<Item = String>) -> String {
    let cells: String = cells.into_iter().map(|cell| format!("<td>{cell}</td>")).collect();
    format!("<tr class=\"{}\"><th scope=\"row\">{}</th>{cells}</tr>\n", escaped(class), escaped(heading))
}

/// The row of headings.
fn headings<S: AsRef<str>>(headings: impl IntoIterator<Item = S>) -> String {
    let cells: String =
        headings.into_iter().map(|heading| format!("<th scope=\"col\">{}</th>", escaped(heading.as_ref()))).collect();
    format!("<thead><tr>{cells}</tr></thead>\n")
}

/// A figure, and beside it what it is as a multiple of the baseline's.
fn with_ratio(figure: &str, ratio: Option<f64>) -> String {
    match ratio {
        Some(number) => format!("{} <span class=\"ratio\">{}×</span>", escaped(figure), text::ratio(number)),
        None => escaped(figure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::{METHODS, Sample, Unit};
    use crate::bench::scaling::tests::block;
    use crate::bench::sizes::tests::size;

    /// Results of every kind.
    pub fn document() -> Document {
        let sample = |method: &str, p50| Sample {
            child: "static".into(),
            method: method.into(),
            parent: "small".into(),
            n: 9,
            p10: p50 - 1000,
            p50,
            p90: p50 + 1000,
            typical: p50,
        };
        Document {
            kernel: "7.3.4<&>".into(),
            accel: "tcg".into(),
            unit: Unit::Instructions,
            results: METHODS
                .into_iter()
                .zip([400_000, 200_000, 300_000, 250_000, 100_000])
                .map(|(m, p)| sample(m, p))
                .collect(),
            machine: None,
            sizes: vec![size(0, "fork_exec", 250_000), size(64, "fork_exec", 5_000_000)],
            scaling: vec![block(Unit::Ns)],
        }
    }

    /// Whether every element that is opened is closed, in the right order.
    fn is_well_formed(html: &str) -> bool {
        let mut open = Vec::new();
        for tag in html.split('<').skip(1).filter_map(|rest| rest.split('>').next()) {
            let name: String = tag.chars().take_while(|c| c.is_ascii_alphanumeric()).collect();
            match tag.strip_prefix('/') {
                Some(closed) if open.pop() != Some(closed.to_owned()) => return false,
                Some(_) => {}
                None if tag.ends_with('/') || tag.starts_with('!') || ["meta", "br"].contains(&name.as_str()) => {}
                None => open.push(name),
            }
        }
        open.is_empty()
    }

    #[test]
    fn the_page_stands_alone() {
        let page = html(&document(), None);
        assert!(is_well_formed(&page), "{page}");
        for foreign in ["<script", "http:", "https:", "@import", "url(", "src="] {
            assert!(!page.contains(foreign), "{foreign} is in\n{page}");
        }
        assert!(page.contains("7.3.4&lt;&amp;&gt;") && !page.contains("7.3.4<"), "{page}");
    }

    #[test]
    fn sections_without_figures_are_left_out() {
        let mut document = document();
        let count = |document: &Document| html(document, None).matches("<section").count();
        assert_eq!(count(&document), 3);
        (document.sizes, document.scaling) = (vec![], vec![]);
        assert_eq!(count(&document), 1);
        document.results.clear();
        assert_eq!(count(&document), 0);
    }
}
