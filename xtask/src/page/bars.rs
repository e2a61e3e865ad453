//! Bars in groups, each with its spread, on an axis that starts at 0.

use std::fmt::Write as _;

use super::scale::Linear;
use super::text::{escaped, figure, tick};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 300.0;
/// Where the axes are.
const LEFT: f64 = 70.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = HEIGHT - 28.0;
/// How much of a group's room its bars take.
const FILLED: f64 = 0.86;

/// One bar. The class is its colour.
pub struct Bar {
    /// What it is, for who points at it.
    pub name: String,
    /// Its class in the style sheet.
    pub class: &'static str,
    /// Its height.
    pub value: f64,
    /// Where its whisker begins and ends.
    pub spread: (f64, f64),
}

/// Bars with a common name.
pub struct Group {
    /// The name.
    pub name: String,
    /// From left to right.
    pub bars: Vec<Bar>,
}

/// The plot, as an SVG element. `unit` is written at the axis.
pub fn svg(unit: &str, groups: &[Group]) -> String {
    let highest = groups.iter().flat_map(|group| &group.bars).map(|bar| bar.spread.1.max(bar.value));
    let axis = Linear::new(highest.fold(0.0, f64::max), (BOTTOM, TOP));
    let mut text = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{unit}\">\n\
         <text class=\"unit\" x=\"4\" y=\"14\">{unit}</text>\n",
        unit = escaped(unit)
    );
    for number in axis.ticks() {
        let (y, label) = (axis.at(number), tick(number));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        let _ = writeln!(text, "<text class=\"end\" x=\"{}\" y=\"{:.1}\">{label}</text>", LEFT - 8.0, y + 4.0);
    }
    let room = (WIDTH - LEFT) / groups.len().max(1) as f64;
    for (index, group) in groups.iter().enumerate() {
        let start = LEFT + room * (index as f64 + (1.0 - FILLED) / 2.0);
        draw_group(&mut text, &axis, group, start, room * FILLED);
    }
    text.push_str("</svg>\n");
    text
}

fn draw_group(text: &mut String, axis: &Linear, group: &Group, start: f64, room: f64) {
    let pitch = room / group.bars.len().max(1) as f64;
    for (index, bar) in group.bars.iter().enumerate() {
        let Bar { name, class, value, spread } = bar;
        let (x, width) = (start + pitch * index as f64, pitch * 0.86);
        let (middle, y) = (x + width / 2.0, axis.at(*value));
        let (low, high) = (axis.at(spread.0), axis.at(spread.1));
        let _ = writeln!(
            text,
            "<g class=\"{class}\"><title>{}: {} ({} – {})</title>\
             <rect class=\"bar\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>\
             <path class=\"whisker\" d=\"M{:.1} {low:.1}h8m-4 0V{high:.1}m-4 0h8\"/>\
             <text class=\"value\" x=\"{middle:.1}\" y=\"{:.1}\">{}</text></g>",
            escaped(name),
            figure(*value),
            figure(spread.0),
            figure(spread.1),
            BOTTOM - y,
            middle - 4.0,
            y.min(high) - 5.0,
            figure(*value),
        );
    }
    let (middle, y) = (start + room / 2.0, BOTTOM + 19.0);
    let _ = writeln!(text, "<text class=\"middle\" x=\"{middle:.1}\" y=\"{y:.1}\">{}</text>", escaped(&group.name));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_high_as_their_value() {
        let bar = |value| Bar { name: "a<b".into(), class: "clone3", value, spread: (value - 5.0, value + 5.0) };
        let svg = svg("apples", &[Group { name: "g".into(), bars: vec![bar(50.0), bar(95.0)] }]);
        // The axis goes to 100 and is 236 pixels long.
        assert!(svg.contains("height=\"118.0\""), "{svg}");
        assert!(svg.contains("<title>a&lt;b: 50.0 (45.0 – 55.0)</title>"), "{svg}");
        assert_eq!(svg.matches("<rect class=\"bar\"").count(), 2);
        assert!(svg.contains(">apples</text>") && svg.ends_with("</svg>\n"), "{svg}");
    }
}
