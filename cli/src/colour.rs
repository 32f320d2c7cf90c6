//! Colours on standard output, where a person looks at it: never in a file or a pipe.

use std::io::IsTerminal as _;

use owo_colors::OwoColorize as _;

/// Good news.
pub(crate) fn green(text: &str) -> String {
    if std::io::stdout().is_terminal() { text.green().to_string() } else { text.to_owned() }
}

/// Something to look at.
pub(crate) fn yellow(text: &str) -> String {
    if std::io::stdout().is_terminal() { text.yellow().to_string() } else { text.to_owned() }
}

/// Bad news.
pub(crate) fn red(text: &str) -> String {
    if std::io::stdout().is_terminal() { text.red().to_string() } else { text.to_owned() }
}
