//! `neargate pull`: a bar per layer on a terminal, a line per finished layer elsewhere.

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use proto::v1::{Image, LayerProgress, PullImageRequest, PullImageResponse};

use super::DONE;
use crate::{
    args::{Globals, Pull},
    client::Client,
    error::Error,
    output, text,
};

/// Pulls an image.
pub(super) async fn pull(globals: &Globals, args: Pull) -> Result<u8, Error> {
    let client = Client::connect(&globals.socket).await?;
    let doing = format!("cannot pull {}", text::plain(&args.image));
    let request = PullImageRequest { image: Some(args.image) };
    let mut steps = client.images().pull_image(request).await.map_err(Error::refused(doing.clone()))?.into_inner();
    let mut display = Display::new(globals.json);
    let mut image = None;
    let outcome = loop {
        match steps.message().await {
            Ok(Some(step)) => {
                if let Some(layer) = &step.layer {
                    display.show(layer);
                }
                image = step.image.or(image);
            }
            Ok(None) => break Ok(()),
            Err(status) => break Err(Error::refused(doing.clone())(status)),
        }
    };
    display.end();
    outcome?;
    let Some(image) = image else { return Err(Error::EndedEarly { doing }) };
    if globals.json {
        output::json(&PullImageResponse { layer: None, image: Some(image) }).map_err(Error::Output)?;
    } else {
        output::line(&pulled(&image)).map_err(Error::Output)?;
    }
    Ok(DONE)
}

fn pulled(image: &Image) -> String {
    format!(
        "{} pulled: {}, {}",
        text::plain(image.image.as_deref().unwrap_or_default()),
        text::plain(image.image_digest.as_deref().unwrap_or_default()),
        text::bytes(image.size_in_bytes.unwrap_or(0.0))
    )
}

/// Where progress goes. Colourless, so that NO_COLOR has nothing to take away.
enum Display {
    Bars { all: MultiProgress, layers: HashMap<String, ProgressBar> },
    Lines,
    Nothing,
}

impl Display {
    fn new(json: bool) -> Display {
        if json {
            Display::Nothing
        } else if io::stderr().is_terminal() && io::stdout().is_terminal() {
            Display::Bars { all: MultiProgress::new(), layers: HashMap::new() }
        } else {
            Display::Lines
        }
    }

    fn show(&mut self, layer: &LayerProgress) {
        let digest = layer.digest.as_deref().unwrap_or_default();
        match self {
            Display::Nothing => {}
            Display::Lines => {
                if let Some(line) = line(layer) {
                    output::note(&line);
                }
            }
            Display::Bars { all, layers } => {
                let bar = layers.entry(digest.to_owned()).or_insert_with(|| {
                    // Complete before it is added: adding draws it.
                    let bar = ProgressBar::new(whole(layer.total_bytes)).with_style(downloading());
                    all.add(bar.with_prefix(text::short_digest(digest)))
                });
                update(bar, layer);
            }
        }
    }

    fn end(self) {
        if let Display::Bars { layers, .. } = self
            && !layers.is_empty()
        {
            layers.into_values().filter(|bar| !bar.is_finished()).for_each(|bar| bar.abandon());
            // The last bar's line is left open.
            output::note("");
        }
    }
}

fn update(bar: &ProgressBar, layer: &LayerProgress) {
    match layer.status.as_deref() {
        Some("COMPLETE") => done(bar, "complete"),
        Some("EXISTS") => done(bar, "already here"),
        _ => {
            bar.set_length(whole(layer.total_bytes));
            bar.set_position(whole(layer.current_bytes));
        }
    }
}

fn done(bar: &ProgressBar, word: &'static str) {
    bar.set_style(finished());
    bar.finish_with_message(word);
}

fn downloading() -> ProgressStyle {
    ProgressStyle::with_template("{prefix} [{bar:30}] {decimal_bytes}/{decimal_total_bytes}")
        .map_or_else(|_| ProgressStyle::default_bar(), |style| style.progress_chars("=> "))
}

fn finished() -> ProgressStyle {
    ProgressStyle::with_template("{prefix} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// What is told of a layer where there are no bars: its end only.
fn line(layer: &LayerProgress) -> Option<String> {
    let digest = text::short_digest(layer.digest.as_deref().unwrap_or_default());
    match layer.status.as_deref() {
        Some("COMPLETE") => Some(format!("{digest}: complete, {}", text::bytes(layer.total_bytes.unwrap_or(0.0)))),
        Some("EXISTS") => Some(format!("{digest}: already here")),
        _ => None,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "casts of floats saturate; a bar may be wrong for nonsense"
)]
fn whole(bytes: Option<f64>) -> u64 {
    bytes.unwrap_or(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_a_layer_makes_a_line() {
        let layer = |status: &str| LayerProgress {
            digest: Some("sha256:0123456789abcdef".into()),
            status: Some(status.into()),
            current_bytes: Some(1.0),
            total_bytes: Some(2000.0),
        };
        assert_eq!(line(&layer("DOWNLOADING")), None);
        assert_eq!(line(&layer("COMPLETE")).unwrap(), "0123456789ab: complete, 2.00 kB");
        assert_eq!(line(&layer("EXISTS")).unwrap(), "0123456789ab: already here");
    }
}
