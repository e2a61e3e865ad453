//! The flame graph: every call path as a column of boxes, as wide as what it costs, callers below.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::groups::{GROUPS, group};
use super::report::Profile;
use crate::page::text::{escaped, thousands};

const WIDTH: f64 = 1800.0;
const ROW: usize = 17;
/// The title's.
const HEAD: usize = 30;
/// Boxes narrower than this are left out: nobody could see them.
const NARROWEST: f64 = 0.4;
/// About what a letter takes.
const LETTER: f64 = 6.6;

/// A function called from one place.
#[derive(Default)]
struct Frame<'a> {
    whole: f64,
    callees: BTreeMap<&'a str, Frame<'a>>,
}

impl Frame<'_> {
    fn depth(&self, scale: f64) -> usize {
        let wide = self.callees.values().filter(|frame| frame.whole * scale >= NARROWEST);
        wide.map(|frame| 1 + frame.depth(scale)).max().unwrap_or(0)
    }
}

/// The whole SVG file.
pub fn svg(profile: &Profile) -> String {
    let mut root = Frame::default();
    for (path, &count) in &profile.stacks {
        root.whole += count;
        let mut frame = &mut root;
        for name in path.split(';') {
            frame = frame.callees.entry(name).or_default();
            frame.whole += count;
        }
    }
    let scale = WIDTH / root.whole;
    let height = HEAD + root.depth(scale) * ROW + ROW;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"monospace\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"5\" y=\"20\" font-size=\"14\">{}: {} instructions per spawn</text>\n",
        escaped(&profile.title()),
        thousands(profile.total)
    );
    boxes(&mut text, &root, scale, 0.0, height - ROW, profile.total);
    text.push_str("</svg>\n");
    text
}

/// Draws what `frame` calls, from `x` on, with its top at `y`.
fn boxes(text: &mut String, frame: &Frame, scale: f64, mut x: f64, y: usize, total: f64) {
    for (name, callee) in &frame.callees {
        let width = callee.whole * scale;
        if width >= NARROWEST {
            let (count, share) = (thousands(callee.whole), 100.0 * callee.whole / total);
            let full = escaped(name);
            let _ = writeln!(
                text,
                "<g><title>{full}: {count} ({share:.1} %), {}</title><rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" \
                 height=\"{}\" fill=\"{}\" stroke=\"white\" stroke-width=\"0.4\"/>",
                group(name),
                ROW - 1,
                colour(group(name)),
            );
            let room = ((width - 4.0) / LETTER) as usize;
            if room > 2 {
                let short: String = name.chars().take(room).collect();
                let _ = writeln!(text, "<text x=\"{:.1}\" y=\"{}\">{}</text>", x + 2.0, y + ROW - 5, escaped(&short));
            }
            text.push_str("</g>\n");
            boxes(text, callee, scale, x, y.saturating_sub(ROW), total);
        }
        x += width;
    }
}

/// A light colour for each kind of work.
fn colour(name: &str) -> String {
    let index = GROUPS.iter().position(|(group, _)| *group == name).map_or(0, |index| index + 1);
    // Steps of the golden angle keep neighbours apart.
    format!("hsl({:.0},65%,{}%)", (index as f64 * 137.5) % 360.0, 72 + index % 3 * 4)
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::profile;
    use super::*;

    #[test]
    fn boxes_are_as_wide_as_their_cost() {
        let svg = svg(&profile(&[("a;b", 75.0), ("a;<c>", 25.0)]));
        assert!(
            svg.contains("<title>a: 100 (100.0 %), rest</title><rect x=\"0.0\" y=\"64\" width=\"1800.0\""),
            "{svg}"
        );
        assert!(
            svg.contains("<title>&lt;c&gt;: 25 (25.0 %), rest</title><rect x=\"0.0\" y=\"47\" width=\"450.0\""),
            "{svg}"
        );
        assert!(
            svg.contains("<title>b: 75 (75.0 %), rest</title><rect x=\"450.0\" y=\"47\" width=\"1350.0\""),
            "{svg}"
        );
        assert!(svg.ends_with("</svg>\n"));
    }
}
