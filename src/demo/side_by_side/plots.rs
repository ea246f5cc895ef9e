//! The plots of the report, as SVG that a page can hold: no script, and no style but by class.

use std::fmt::Write;

use super::report::Report;
use super::scenario::Phase;
use super::service::Point;
use crate::demo::to_f64;
use crate::demo::world::Model;

const WIDTH: f64 = 960.0;
/// Left and right of what is drawn.
const MARGINS: (f64, f64) = (56.0, 16.0);
const ROWS_TOP: f64 = 44.0;
const ROWS_HEIGHT: f64 = 240.0;
/// The height of a strip, and from one to the next.
const STRIP: (f64, f64) = (14.0, 26.0);
/// More points than that are no more to be seen.
const POINTS: usize = 1_200;

/// Rows over time on both sides, and under it when either had no stream and when it used old keys.
pub(super) fn plots(report: &Report) -> String {
    let ends = report.points.iter().filter_map(|points| points.last());
    let seconds = ends.clone().map(|last| last.seconds).fold(1.0, f64::max);
    let rows = ends.map(|last| last.rows_written + last.rows_missed).max().unwrap_or(1).max(1);
    let scale = Scale { seconds, rows: to_f64(rows) };
    let strips_top = ROWS_TOP + ROWS_HEIGHT + 40.0;
    let height = strips_top + 4.0 * STRIP.1 + 8.0;
    let mut svg = format!(
        r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-labelledby="plot-title plot-text"><title id="plot-title">Rows over time, embedded and injected</title><desc id="plot-text">{}</desc>"#,
        description(report)
    );
    axes(&mut svg, &scale, &report.phases);
    for (model, points) in Model::BOTH.into_iter().zip(&report.points) {
        curve(&mut svg, &scale, model.name(), points);
    }
    let strips = Model::BOTH.into_iter().zip(&report.points).zip(&report.stale_intervals);
    for (number, ((model, points), stale)) in strips.enumerate() {
        let top = strips_top + to_f64(2 * number as u64) * STRIP.1;
        let name = model.name();
        strip(&mut svg, &scale, top, &format!("{name}: old keys"), "old", stale);
        let silent = silent(points);
        strip(&mut svg, &scale, top + STRIP.1, &format!("{name}: no stream"), "silent", &silent);
    }
    svg.push_str("</svg>");
    svg
}

struct Scale {
    seconds: f64,
    rows: f64,
}

impl Scale {
    fn x(&self, seconds: f64) -> f64 {
        MARGINS.0 + (WIDTH - MARGINS.0 - MARGINS.1) * (seconds / self.seconds).clamp(0.0, 1.0)
    }

    fn y(&self, rows: f64) -> f64 {
        ROWS_TOP + ROWS_HEIGHT * (1.0 - (rows / self.rows).clamp(0.0, 1.0))
    }
}

fn description(report: &Report) -> String {
    let [embedded, injected] = [report.embedded.rows_in_table, report.injected.rows_in_table];
    format!("At the end the embedded side has {embedded} rows, the injected side {injected}.")
}

fn axes(svg: &mut String, scale: &Scale, phases: &[Phase]) {
    let bottom = ROWS_TOP + ROWS_HEIGHT;
    for (number, phase) in phases.iter().enumerate() {
        let (from, to) = (scale.x(phase.from), scale.x(phase.to));
        let shade = if number % 2 == 0 { "phase" } else { "phase odd" };
        let _ = write!(
            svg,
            r#"<rect class="{shade}" x="{from:.1}" y="{ROWS_TOP}" width="{:.1}" height="{ROWS_HEIGHT}"><title>{name}: {:.1} to {:.1} s</title></rect><text class="name" x="{:.1}" y="{:.1}">{}</text>"#,
            to - from,
            phase.from,
            phase.to,
            from + 3.0,
            ROWS_TOP - 8.0,
            number + 1,
            name = phase.name,
        );
    }
    for quarter in 0..=4_u32 {
        let rows = scale.rows * f64::from(quarter) / 4.0;
        let y = scale.y(rows);
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{}" x2="{}" y1="{y:.1}" y2="{y:.1}"/><text class="tick end" x="{}" y="{:.1}">{rows:.0}</text>"#,
            MARGINS.0,
            WIDTH - MARGINS.1,
            MARGINS.0 - 6.0,
            y + 4.0,
        );
    }
    let step = [1_u32, 2, 5, 10, 20, 30, 60, 120, 300, 600, 3600];
    let step =
        step.into_iter().find(|step| scale.seconds / f64::from(*step) <= 12.0).unwrap_or(3600);
    let mut seconds = 0;
    while f64::from(seconds) <= scale.seconds {
        let x = scale.x(f64::from(seconds));
        let _ = write!(
            svg,
            r#"<text class="tick middle" x="{x:.1}" y="{:.1}">{seconds} s</text>"#,
            bottom + 16.0,
        );
        seconds += step;
    }
}

fn curve(svg: &mut String, scale: &Scale, name: &str, points: &[Point]) {
    let every = points.len().div_ceil(POINTS).max(1);
    let _ = write!(svg, r#"<polyline class="curve {name}" points=""#);
    let last = points.last().into_iter();
    for point in points.iter().step_by(every).chain(last) {
        let (x, y) = (scale.x(point.seconds), scale.y(to_f64(point.rows_written)));
        let _ = write!(svg, "{x:.1},{y:.1} ");
    }
    svg.push_str(r#""/>"#);
    if let Some(last) = points.last() {
        let (x, y) = (scale.x(last.seconds), scale.y(to_f64(last.rows_written)));
        let _ = write!(
            svg,
            r#"<text class="tick end label {name}" x="{:.1}" y="{:.1}">{name} {}</text>"#,
            x - 4.0,
            y - 6.0,
            last.rows_written,
        );
    }
}

fn strip(
    svg: &mut String,
    scale: &Scale,
    top: f64,
    name: &str,
    class: &str,
    intervals: &[(f64, f64)],
) {
    let _ = write!(
        svg,
        r#"<rect class="track" x="{}" y="{top}" width="{}" height="{}"/><text class="tick" x="{}" y="{}">{name}</text>"#,
        MARGINS.0,
        WIDTH - MARGINS.0 - MARGINS.1,
        STRIP.0,
        MARGINS.0,
        top - 3.0,
    );
    for (from, to) in intervals {
        let (x, end) = (scale.x(*from), scale.x(*to));
        let _ = write!(
            svg,
            r#"<rect class="{class}" x="{x:.1}" y="{top}" width="{:.1}" height="{}"><title>{name}: {from:.1} to {to:.1} s</title></rect>"#,
            (end - x).max(1.0),
            STRIP.0,
        );
    }
}

/// From when until when no stream was open, between the first and the last that was.
fn silent(points: &[Point]) -> Vec<(f64, f64)> {
    let first = points.iter().position(|point| point.streaming).unwrap_or(points.len());
    let last = points.iter().rposition(|point| point.streaming).unwrap_or_default();
    let mut intervals = Vec::new();
    let mut since = None;
    for point in points.get(first..=last).unwrap_or_default() {
        match (since, point.streaming) {
            (None, false) => since = Some(point.seconds),
            (Some(from), true) => {
                intervals.push((from, point.seconds));
                since = None;
            }
            _ => {}
        }
    }
    intervals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_between_the_first_stream_and_the_last() {
        let streaming = [false, true, true, false, false, true, false, true, false];
        let points: Vec<_> = (0..)
            .zip(streaming)
            .map(|(at, streaming)| Point {
                seconds: f64::from(at),
                rows_written: 0,
                rows_missed: 0,
                streaming,
                running: true,
            })
            .collect();
        assert_eq!(silent(&points), [(3.0, 5.0), (6.0, 7.0)]);
        assert_eq!(silent(&[]), []);
    }
}
