//! The report as one HTML file that holds all it needs: no script, and a policy that would let none run.

use std::fmt::{self, Write};

use super::plots::plots;
use super::report::{Report, figures, note_on_the_start};
use crate::demo::world::Model;

const STYLE: &str = include_str!("report.css");

/// A text, fit for HTML.
pub(super) struct Escaped<'a>(pub(super) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// What `style-src` says to let this style in, and no other.
fn source_of(style: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, style.as_bytes());
    format!("'sha256-{}'", aws_smithy_types::base64::encode(digest))
}

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
    let mut html = String::new();
    // A String takes all that is written to it.
    let _ = write_page(report, &mut html);
    html
}

fn write_page(report: &Report, html: &mut String) -> fmt::Result {
    let [embedded, injected] = Model::BOTH.map(Model::name);
    write!(
        html,
        r#"<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src {}; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>twitterstream: embedded and injected side by side</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>Embedded and injected, side by side</h1>
<p>The same worker twice, on the same posts: one asks Secrets Manager itself with its task role (<b class="embedded">{embedded}</b>),
the other has its secrets from ECS, in environment variables (<b class="injected">{injected}</b>). Figures were measured in this
run, on one machine, against a local AWS and a local feed; what the simulated starts of tasks have added to them is
called simulated.</p>
<p class="note">{}</p>
<h2>Rows over time</h2>
{}
<ol class="phases">"#,
        source_of(STYLE),
        Escaped(&note_on_the_start(report)),
        plots(report),
    )?;
    for phase in &report.phases {
        write!(
            html,
            "<li>{}, from {:.1} s to {:.1} s</li>",
            Escaped(phase.name),
            phase.from,
            phase.to
        )?;
    }
    write!(
        html,
        r#"</ol>
<h2>Figures</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Figures"><table><caption>What was measured on each side</caption>
<thead><tr><th scope="col">What</th><th scope="col">{embedded}</th><th scope="col">{injected}</th></tr></thead><tbody>"#
    )?;
    for [what, embedded, injected] in figures(report) {
        write!(
            html,
            r#"<tr><th scope="row">{}</th><td>{}</td><td>{}</td></tr>"#,
            Escaped(what.trim_start()),
            Escaped(&embedded),
            Escaped(&injected)
        )?;
    }
    write!(
        html,
        r#"</tbody></table></div>
<h2>Attacks and claims</h2>
<div class="scroll" tabindex="0" role="region" aria-label="Attacks and claims"><table><caption>What was found when both were attacked; a verdict follows from what was found</caption>
<thead><tr><th scope="col">Claim</th><th scope="col">Given</th><th scope="col">{embedded}</th><th scope="col">{injected}</th><th scope="col">Verdict</th></tr></thead><tbody>"#
    )?;
    for finding in &report.probes {
        let verdict = match (finding.verdict, &finding.skipped) {
            (Some(verdict), _) => verdict.words().to_owned(),
            (None, Some(why)) => format!("skipped: {why}"),
            (None, None) => "none".to_owned(),
        };
        write!(
            html,
            r#"<tr><th scope="row">{}<details><summary>On Fargate</summary><p>{}</p><p>To repeat it there: <code>{}</code></p></details></th><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>"#,
            Escaped(finding.probe.claim),
            Escaped(finding.probe.on_fargate),
            Escaped(finding.probe.command),
            Escaped(finding.probe.given),
            Escaped(&finding.embedded),
            Escaped(&finding.injected),
            Escaped(&verdict),
        )?;
    }
    write!(
        html,
        r#"</tbody></table></div>
<h2>What happened</h2>
<div class="scroll" tabindex="0" role="region" aria-label="What happened"><table><caption>The timeline of both sides</caption>
<thead><tr><th scope="col">Seconds</th><th scope="col">Side</th><th scope="col">Event</th></tr></thead><tbody>"#
    )?;
    for event in &report.timeline {
        let side = event.side.map_or("both", Model::name);
        write!(
            html,
            r#"<tr><td>{:.2}</td><td class="{side}">{side}</td><td>{}</td></tr>"#,
            event.seconds,
            Escaped(&event.text),
        )?;
    }
    writeln!(html, "</tbody></table></div>\n</main>\n</body>\n</html>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_markup() {
        let text = Escaped("<script>\"'&").to_string();
        assert_eq!(text, "&lt;script&gt;&quot;&#39;&amp;");
    }
}
