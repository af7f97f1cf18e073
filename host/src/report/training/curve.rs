//! Figures over steps as a picture: SVG that stands in a page, without scripts and without anything from elsewhere.

use std::fmt::Write as _;

use super::{Course, thinned};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 240.0;
/// Room for numbers: left, right, above, below.
const MARGIN: (f64, f64, f64, f64) = (64.0, 16.0, 28.0, 32.0);
/// More points than this are means of neighbours.
const POINTS: usize = 400;
const COLOURS: [&str; 5] = ["#1b6ca8", "#c8553d", "#588157", "#8d6a9f", "#b08900"];

/// One picture of several figures on one scale; nothing if there is not a single value.
pub(super) fn svg(courses: &[(&str, &Course)]) -> Option<String> {
    let all = || courses.iter().flat_map(|(_, course)| course.iter().copied());
    let (low, high) = (all().map(|(_, v)| v).reduce(f64::min)?, all().map(|(_, v)| v).reduce(f64::max)?);
    let (first, last) = (all().map(|(s, _)| s).min()? as f64, all().map(|(s, _)| s).max()? as f64);
    let (left, right, above, below) = MARGIN;
    let share = |value: f64, from: f64, to: f64| if to > from { (value - from) / (to - from) } else { 0.5 };
    let x = |step: f64| left + share(step, first, last) * (WIDTH - left - right);
    let y = |value: f64| HEIGHT - below - share(value, low, high) * (HEIGHT - above - below);

    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" width=\"{WIDTH}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n"
    );
    // Writing to a string cannot fail.
    for i in 0..=4 {
        let value = low + (high - low) * f64::from(i) / 4.0;
        let at = y(value);
        let _ = writeln!(
            out,
            "<line x1=\"{left}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{}</text>",
            WIDTH - right,
            left - 6.0,
            at + 4.0,
            number(value)
        );
        if high <= low {
            break;
        }
    }
    for (step, anchor) in [(first, "start"), (last, "end")] {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" fill=\"#555\">step {step}</text>",
            x(step),
            HEIGHT - below + 16.0
        );
    }
    for (i, (name, course)) in courses.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let points = thinned(course, POINTS);
        if let [(step, value)] = points[..] {
            let (x, y) = (x(step as f64), y(value));
            let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>");
        } else {
            let points: Vec<String> = points.iter().map(|&(s, v)| format!("{:.1},{:.1}", x(s as f64), y(v))).collect();
            let _ = writeln!(
                out,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
                points.join(" ")
            );
        }
        let at = left + 150.0 * i as f64;
        let _ = writeln!(out, "<text x=\"{at}\" y=\"16\" fill=\"{colour}\">{}</text>", escaped(name));
    }
    out.push_str("</svg>\n");
    Some(out)
}

/// A number in four digits.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        0.0 => "0".to_owned(),
        _ if !(1e-3..1e5).contains(&size) => format!("{value:.2e}"),
        _ => format!("{value:.*}", (3 - size.log10().floor() as i32).clamp(0, 6) as usize),
    }
}

/// Text in which nothing is markup.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_course_is_a_line_within_the_picture() {
        let falling: Course = (0..1000).map(|s| (s, 1.0 / (s + 1) as f64)).collect();
        let flat = vec![(500, 0.25)];
        let picture = svg(&[("loss", &falling), ("<b>", &flat)]).unwrap();
        assert_eq!(picture.matches("<polyline").count(), 1);
        assert_eq!(picture.matches("<circle").count(), 1);
        assert!(picture.contains("&lt;b&gt;") && !picture.contains("<b>"));
        let points = picture.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let points: Vec<(f64, f64)> = points
            .split(' ')
            .map(|p| p.split_once(',').map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).unwrap())
            .collect();
        assert!(points.len() > 100 && points.len() <= POINTS);
        assert!(points.iter().all(|(x, y)| (0.0..=WIDTH).contains(x) && (0.0..=HEIGHT).contains(y)));
        assert!(points.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1), "it falls to the right");
        assert_eq!(svg(&[("nothing", &Vec::new())]), None);
        assert!(svg(&[("one", &flat)]).is_some());
    }

    #[test]
    fn numbers_keep_four_digits() {
        let spelled = [0.0, 1.0, 0.123456, 123.456, 99999.0, 1e-7, -2.5].map(number);
        assert_eq!(spelled, ["0", "1.000", "0.1235", "123.5", "99999", "1.00e-7", "-2.500"]);
    }
}
