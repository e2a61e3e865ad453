//! What one profile has more or less of than another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::groups::group;
use super::report::Profile;
use crate::page::text::thousands;

/// What a row of the table is about, per spawn in the one and the other.
type Row<'a> = (&'a str, f64, f64);

/// The table of the differences, the largest first, with this many functions.
pub fn table(one: &Profile, other: &Profile, top: usize) -> String {
    let mut text = format!("{}\n{}\n", one.title(), other.title());
    let titles = [&one.subject, &other.subject].map(|subject| subject.method.as_str());
    let total = [("all", one.total, other.total)];
    section(&mut text, titles, "by kind of work", &total, |name| name.to_owned());
    let groups = rows(&one.groups, &other.groups, |count| *count);
    lines(&mut text, &groups, |name| name.to_owned());
    let functions = rows(&one.functions, &other.functions, |cost| cost.own);
    let shown = &functions[..top.min(functions.len())];
    let title = format!("by function, own ({} of {})", shown.len(), functions.len());
    section(&mut text, titles, &title, shown, |name| format!("{name}  [{}]", group(name)));
    text
}

fn section(text: &mut String, titles: [&str; 2], title: &str, rows: &[Row], name: impl Fn(&str) -> String) {
    let [one, other] = titles;
    let _ = writeln!(text, "\n{one:>15} {other:>15}  difference  {title}");
    lines(text, rows, name);
}

fn lines(text: &mut String, rows: &[Row], name: impl Fn(&str) -> String) {
    for &(row, one, other) in rows {
        let [one, other, difference] = [one, other, other - one].map(thousands);
        let _ = writeln!(text, "{one:>15} {other:>15}  {difference:>10}  {}", name(row));
    }
}

/// What either has, the largest difference first.
fn rows<'a, T>(one: &'a BTreeMap<String, T>, other: &'a BTreeMap<String, T>, cost: impl Fn(&T) -> f64) -> Vec<Row<'a>> {
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let of = |map: &BTreeMap<String, T>, name| map.get(name).map_or(0.0, &cost);
    let mut rows: Vec<Row> = names.into_iter().map(|name| (name.as_str(), of(one, name), of(other, name))).collect();
    rows.sort_by(|a, b| (b.2 - b.1).abs().total_cmp(&(a.2 - a.1).abs()));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_difference_comes_first() {
        let map = |pairs: &[(&str, f64)]| pairs.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect();
        let one: BTreeMap<String, f64> = map(&[("same", 50.0), ("less", 10.0), ("gone", 30.0)]);
        let other = map(&[("same", 50.0), ("less", 5.0), ("new", 20.0)]);
        let rows = rows(&one, &other, |n| *n);
        assert_eq!(rows, [("gone", 30.0, 0.0), ("new", 0.0, 20.0), ("less", 10.0, 5.0), ("same", 50.0, 50.0)]);
    }
}
