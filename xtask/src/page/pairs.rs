//! Rows of two bars each: before and after.

use std::fmt::Write as _;

use super::scale::Linear;
use super::text::{escaped, figure, tick};

const WIDTH: f64 = 960.0;
/// Where the bars begin and where the longest one ends; beside it stands what it shows.
const LEFT: f64 = 210.0;
const RIGHT: f64 = WIDTH - 220.0;
const TOP: f64 = 24.0;
const ROW: f64 = 34.0;
const BAR: f64 = 11.0;

/// One row.
pub struct Pair {
    /// Its name.
    pub name: String,
    /// The class of the second bar in the style sheet.
    pub class: String,
    /// The first bar.
    pub before: f64,
    /// The second bar.
    pub after: f64,
}

/// The plot, as an SVG element. `unit` is written at the axis.
pub fn svg(unit: &str, pairs: &[Pair]) -> String {
    let bottom = TOP + ROW * pairs.len() as f64;
    let height = bottom + 24.0;
    let axis = Linear::new(pairs.iter().map(|pair| pair.before.max(pair.after)).fold(0.0, f64::max), (LEFT, RIGHT));
    let mut text = format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{unit}\">\n\
         <text class=\"unit\" x=\"{LEFT}\" y=\"14\">{unit}</text>\n",
        unit = escaped(unit)
    );
    for number in axis.ticks() {
        let (x, label) = (axis.at(number), tick(number));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>");
        let _ = writeln!(text, "<text class=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{label}</text>", bottom + 18.0);
    }
    for (index, Pair { name, class, before, after }) in pairs.iter().enumerate() {
        let y = TOP + ROW * index as f64 + (ROW - 2.0 * BAR) / 2.0;
        let (first, second) = (axis.at(*before) - LEFT, axis.at(*after) - LEFT);
        let _ = writeln!(
            text,
            "<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
             <rect class=\"before\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{first:.1}\" height=\"{BAR}\"/>\
             <g class=\"{}\"><rect class=\"bar\" x=\"{LEFT}\" y=\"{:.1}\" width=\"{second:.1}\" height=\"{BAR}\"/></g>\
             <text x=\"{:.1}\" y=\"{:.1}\">{} → {} ({})</text>",
            LEFT - 8.0,
            y + BAR + 4.0,
            escaped(name),
            escaped(class),
            y + BAR,
            LEFT + first.max(second) + 8.0,
            y + BAR + 4.0,
            figure(*before),
            figure(*after),
            change(*before, *after),
        );
    }
    text.push_str("</svg>\n");
    text
}

/// The change in per cent of what was before.
pub fn change(before: f64, after: f64) -> String {
    if before > 0.0 { format!("{:+.1} %", (after / before - 1.0) * 100.0) } else { "-".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bars_are_on_one_axis() {
        let pair = Pair { name: "a&b".into(), class: "clone3".into(), before: 1000.0, after: 500.0 };
        let svg = svg("apples", &[pair]);
        assert!(svg.contains("width=\"530.0\"") && svg.contains("width=\"265.0\""), "{svg}");
        assert!(svg.contains("1 000 → 500.0 (-50.0 %)") && svg.contains("a&amp;b"), "{svg}");
        assert_eq!(change(0.0, 1.0), "-");
    }
}
