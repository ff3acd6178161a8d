//! Draws a terminal's text as an SVG image: the picture in the README.
//!
//! `cargo xtask demo -- COMMAND 2>&1 | cargo xtask picture >docs/demo.svg`

use std::fmt::Write as _;
use std::io::Read;
use std::process::ExitCode;

use anyhow::Result;

const LINE_HEIGHT: usize = 19;
const CHARACTER_WIDTH: usize = 8;
const MARGIN: usize = 20;

/// Reads text from standard input, and writes the image to standard output.
pub fn run() -> Result<ExitCode> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    print!("{}", svg(&text)?);
    Ok(ExitCode::SUCCESS)
}

fn svg(text: &str) -> Result<String> {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let columns = lines
        .iter()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0);
    let (width, height) = (
        columns * CHARACTER_WIDTH + 2 * MARGIN,
        lines.len() * LINE_HEIGHT + 2 * MARGIN,
    );
    let mut image = String::new();
    writeln!(
        image,
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" aria-label="A terminal">
<rect width="100%" height="100%" rx="8" fill="#1b1d23"/>
<g font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="13" fill="#d7dae0" xml:space="preserve">"##
    )?;
    for (number, line) in lines
        .iter()
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
    {
        let baseline = MARGIN + number * LINE_HEIGHT + 14;
        let length = line.chars().count() * CHARACTER_WIDTH;
        // What is typed, and what the commands say about themselves, stands out.
        let colour = match line.chars().next() {
            Some('$' | '#') => r##" fill="#9ece6a""##,
            Some('=') => r##" fill="#7aa2f7""##,
            _ => "",
        };
        writeln!(
            image,
            r#"<text x="{MARGIN}" y="{baseline}" textLength="{length}"{colour}>{}</text>"#,
            line.replace('&', "&amp;")
                .replace('<', "&lt;")
                .replace('>', "&gt;")
        )?;
    }
    image.push_str("</g>\n</svg>\n");
    Ok(image)
}
