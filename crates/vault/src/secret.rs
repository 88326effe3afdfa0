//! A value that must not be seen: a provider key, a webhook secret, a token on its way out.

use std::fmt;
use std::sync::Arc;

use base::limits::SECRET_BYTES_MAX;
use zeroize::Zeroizing;

/// Non-empty secret bytes, at most [`SECRET_BYTES_MAX`], wiped when the last clone is dropped.
///
/// It cannot be printed, compared with `==` or serialized; clones share the same bytes.
///
/// ```
/// let secret = vault::Secret::from_text("sk-123".to_owned()).map_err(|_| "empty")?;
/// assert_eq!(secret.expose_str(), Some("sk-123"));
/// # Ok::<(), &str>(())
/// ```
///
/// ```compile_fail
/// let secret = vault::Secret::new(vec![1]).map_err(|_| "empty")?;
/// println!("{secret:?}");
/// # Ok::<(), &str>(())
/// ```
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

/// The value offered as a secret is none: empty (or blank text), or longer than
/// [`SECRET_BYTES_MAX`]. An empty key would make every signature check pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmptySecret {
    /// No bytes, or nothing but white space.
    Empty,
    /// More than [`SECRET_BYTES_MAX`] bytes.
    TooLong,
}

impl Secret {
    /// Takes the bytes over; they are wiped even where they are refused.
    ///
    /// # Errors
    /// [`EmptySecret`] where there are no bytes or too many.
    pub fn new(bytes: Vec<u8>) -> Result<Self, EmptySecret> {
        let bytes = Zeroizing::new(bytes);
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(EmptySecret::Empty);
        }
        if bytes.len() > SECRET_BYTES_MAX {
            return Err(EmptySecret::TooLong);
        }
        Ok(Self(Arc::new(bytes)))
    }

    /// Takes the text over, byte for byte: a line end that is not part of the secret is the
    /// caller's to cut.
    ///
    /// # Errors
    /// [`EmptySecret`] where the text is blank or too long.
    pub fn from_text(text: String) -> Result<Self, EmptySecret> {
        Self::new(text.into_bytes())
    }

    /// The bytes, for the one place that needs them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, where they are UTF-8.
    #[must_use]
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl fmt::Display for EmptySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the secret is empty"),
            Self::TooLong => write!(f, "the secret is longer than {SECRET_BYTES_MAX} bytes"),
        }
    }
}

impl std::error::Error for EmptySecret {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_not_a_secret() {
        for text in ["", " ", "\n", " \t\r\n"] {
            assert_eq!(
                Secret::from_text(text.to_owned()).err(),
                Some(EmptySecret::Empty)
            );
        }
    }

    #[test]
    fn the_bound_is_the_last_length_that_passes() {
        assert!(Secret::new(vec![7; SECRET_BYTES_MAX]).is_ok());
        let long = Secret::new(vec![7; SECRET_BYTES_MAX + 1]);
        assert_eq!(long.err(), Some(EmptySecret::TooLong));
    }

    #[test]
    fn bytes_that_are_no_text_are_kept() {
        let secret = Secret::new(vec![0xff, 0]).unwrap();
        assert_eq!(secret.expose(), [0xff, 0]);
        assert_eq!(secret.expose_str(), None);
        assert_eq!(secret.clone().expose(), secret.expose());
    }
}
