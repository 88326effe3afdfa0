//! How much of a call its audit entry says.

/// The logging level of a tenant. Each says what the one before says, and more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Level {
    /// Who, which model, what it cost, how it ended; content as keyed digests only.
    #[default]
    Basic,
    /// Also facts about the call that are not its content: sizes, counts, names of tools.
    Detailed,
    /// Also the request as received and the answer as delivered, sealed under a key of the person or token.
    Full,
}

impl Level {
    /// All levels, the lowest first.
    pub const ALL: [Self; 3] = [Self::Basic, Self::Detailed, Self::Full];

    /// The name in configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Detailed => "detailed",
            Self::Full => "full",
        }
    }

    /// The level of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str() == name)
    }
}
