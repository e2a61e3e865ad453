//! Curves over an amount, both axes logarithmic. An amount of 0 has no place on such an axis and gets one of its own.

use std::fmt::Write as _;

use super::scale::{Log, apart};
use super::text::{escaped, figure, tick};

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 460.0;
/// Where the axes are, and where the names of the curves begin.
const LEFT: f64 = 70.0;
const RIGHT: f64 = WIDTH - 150.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = HEIGHT - 48.0;
/// Room that a name takes.
const LINE: f64 = 17.0;
/// So many times less than the smallest amount is where 0 lies.
const ZERO: f64 = 4.0;

/// One curve. The class is its colour.
pub struct Curve {
    /// Its name.
    pub name: String,
    /// Its class in the style sheet.
    pub class: &'static str,
    /// The amounts, in order, with the values.
    pub points: Vec<(f64, f64)>,
}

/// The plot, as an SVG element. The units are written at the axes.
pub fn svg(amount: &str, unit: &str, curves: &[Curve]) -> String {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let positive = || points().map(|point| point.0).filter(|amount| *amount > 0.0);
    let (least, most) = (positive().fold(f64::INFINITY, f64::min), positive().fold(0.0, f64::max));
    let (low, high) = points().map(|point| point.1).fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
        // There is no 0 on this axis, nor anything that costs nothing.
        let value = value.max(1e-3);
        (low.min(value), high.max(value))
    });
    if !least.is_finite() || !low.is_finite() {
        return String::new();
    }
    let across = Log::new(least / ZERO, most, (LEFT + 20.0, RIGHT - 10.0));
    let up = Log::rounded(low, high, (BOTTOM, TOP));
    let x = |amount: f64| across.at(if amount > 0.0 { amount } else { least / ZERO });
    let mut text = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{unit} over {amount}\">\n\
         <text class=\"unit\" x=\"4\" y=\"14\">{unit}</text>\n\
         <text class=\"middle unit\" x=\"{:.1}\" y=\"{:.1}\">{amount}</text>\n",
        (LEFT + RIGHT) / 2.0,
        HEIGHT - 8.0,
        unit = escaped(unit),
        amount = escaped(amount),
    );
    for number in up.ticks() {
        let (y, label) = (up.at(number), tick(number));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        let _ = writeln!(text, "<text class=\"end\" x=\"{}\" y=\"{:.1}\">{label}</text>", LEFT - 8.0, y + 4.0);
    }
    let mut amounts: Vec<f64> = points().map(|point| point.0).collect();
    amounts.sort_by(f64::total_cmp);
    amounts.dedup();
    for amount in amounts {
        let (x, label) = (x(amount), tick(amount));
        let _ = writeln!(text, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>");
        let _ = writeln!(text, "<text class=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{label}</text>", BOTTOM + 18.0);
        if amount == 0.0 {
            // The axis is broken between 0 and the next amount.
            let gap = (x + across.at(least)) / 2.0;
            let _ = writeln!(text, "<path class=\"whisker\" d=\"M{gap:.1} {:.1}l6 -12m3 0l-6 12\"/>", BOTTOM + 6.0);
        }
    }
    for (index, curve) in curves.iter().enumerate() {
        draw_curve(&mut text, curve, breadth(index, curves.len()), |(amount, value)| {
            (x(amount), up.at(value.max(1e-3)))
        });
    }
    let ends: Vec<f64> = curves.iter().map(|curve| up.at(curve.points.last().map_or(low, |point| point.1))).collect();
    for (index, (curve, y)) in curves.iter().zip(apart(&ends, LINE, BOTTOM)).enumerate() {
        let (from, to) = (RIGHT - 10.0, RIGHT + 24.0);
        let _ = writeln!(
            text,
            "<g class=\"{}\"><path class=\"leader\" d=\"M{from:.1} {:.1}L{to:.1} {y:.1}\"/>\
             <circle class=\"point\" cx=\"{to:.1}\" cy=\"{y:.1}\" r=\"{:.1}\"/></g>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            curve.class,
            ends[index],
            breadth(index, curves.len()) + 1.5,
            to + 12.0,
            y + 4.0,
            escaped(&curve.name),
        );
    }
    text.push_str("</svg>\n");
    text
}

/// How broad a curve is: the later, the thinner, so that one that lies on another does not hide it.
fn breadth(index: usize, count: usize) -> f64 {
    1.5 + 0.9 * (count - 1 - index) as f64
}

fn draw_curve(text: &mut String, curve: &Curve, breadth: f64, place: impl Fn((f64, f64)) -> (f64, f64)) {
    let Curve { name, class, points } = curve;
    let places: Vec<String> = points.iter().map(|point| place(*point)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        text,
        "<g class=\"{class}\"><polyline class=\"curve\" stroke-width=\"{breadth:.1}\" points=\"{}\"/>",
        places.join(" ")
    );
    for point @ (amount, value) in points {
        let (x, y) = place(*point);
        let _ = writeln!(
            text,
            "<circle class=\"point\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{:.1}\"><title>{}, {}: {}</title></circle>",
            breadth + 1.5,
            escaped(name),
            tick(*amount),
            figure(*value),
        );
    }
    text.push_str("</g>\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_go_through_their_points() {
        let curve = |name: &str, points| Curve { name: name.into(), class: "clone3", points };
        let curves =
            [curve("a", vec![(0.0, 100.0), (1.0, 200.0), (4.0, 1000.0)]), curve("b", vec![(0.0, 100.0), (4.0, 100.0)])];
        let svg = svg("MiB", "apples", &curves);
        // 0, 1 and 4 are equally far apart; 100 is the lowest value and 1000 the highest.
        assert!(svg.contains("points=\"90.0,412.0 445.0,298.8 800.0,36.0\""), "{svg}");
        assert!(svg.contains("points=\"90.0,412.0 800.0,412.0\""), "{svg}");
        assert!(svg.contains("<title>a, 4: 1 000</title>"), "{svg}");
    }

    #[test]
    fn without_points_there_is_no_plot() {
        assert_eq!(svg("MiB", "apples", &[]), "");
    }
}
