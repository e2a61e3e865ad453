//! Text and numbers as they stand on the page and in plots.

/// Text that means nothing to HTML and SVG, in an attribute too.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A rounded number with its thousands apart.
pub fn thousands(number: f64) -> String {
    let digits = format!("{:.0}", number.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    if number <= -0.5 { format!("-{text}") } else { text }
}

/// A number with one digit after the point, as long as it is small enough for that to matter.
pub fn figure(number: f64) -> String {
    if number < 1000.0 { format!("{number:.1}") } else { thousands(number) }
}

/// How many times another number one is: enough digits to tell small ratios apart.
pub fn ratio(number: f64) -> String {
    if number < 0.1 { format!("{number:.3}") } else { format!("{number:.2}") }
}

/// A number of an axis, which needs no more digits than it has.
pub fn tick(number: f64) -> String {
    if number < 1.0 && number > 0.0 { format!("{number}") } else { thousands(number) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escaped("<a href=\"x\">&</a>"), "&lt;a href=&quot;x&quot;&gt;&amp;&lt;/a&gt;");
        assert_eq!(escaped("plain, 1 µs"), "plain, 1 µs");
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!(thousands(1_234_567.4), "1 234 567");
        assert_eq!(thousands(-1000.0), "-1 000");
        assert_eq!(thousands(0.4), "0");
        assert_eq!(thousands(-0.4), "0");
    }

    #[test]
    fn small_numbers_have_a_fraction() {
        assert_eq!(figure(132.54), "132.5");
        assert_eq!(figure(22_114.4), "22 114");
        assert_eq!((ratio(0.0058), ratio(171.2)), ("0.006".into(), "171.20".into()));
        assert_eq!((tick(0.0), tick(0.5), tick(20_000.0)), ("0".into(), "0.5".into(), "20 000".into()));
    }
}
