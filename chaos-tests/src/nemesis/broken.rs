//! A promise that was seen to be broken while a fault was inflicted or lifted: a finding of the run, not a failure of the harness.

use std::fmt;

use anyhow::Error;

/// What is broken, in a sentence. Travels as an error, past everything that is only done if nothing is.
#[derive(Debug)]
pub struct Broken(String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Broken {}

impl Broken {
    pub(super) fn promise(text: String) -> Error {
        Self(text).into()
    }

    /// For what fails only if the cluster does.
    pub(super) fn by(error: &Error) -> Error {
        Self::promise(format!("{error:#}"))
    }

    /// What it says, with what it happened at; any other error as it is.
    ///
    /// # Errors
    /// The error, if it is the harness's own.
    pub fn told(error: Error) -> Result<String, Error> {
        if error.downcast_ref::<Self>().is_some() { Ok(format!("{error:#}")) } else { Err(error) }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn broken_promises_are_told_and_other_errors_stay_errors() {
        let promise = Err::<(), _>(Broken::promise("served".to_owned())).context("bit-flip").expect_err("an error");
        assert_eq!(Broken::told(promise).expect("a promise"), "bit-flip: served");
        assert!(Broken::told(anyhow!("no nft").context("loss")).is_err());
        assert!(Broken::told(Broken::by(&anyhow!("it does not listen"))).is_ok_and(|text| text.contains("listen")));
    }
}
