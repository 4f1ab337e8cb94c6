//! The calls whose answers are understood.

/// The kind of a call, by its path; it says which shape the answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// `/chat/completions`.
    Chat,
    /// `/completions`, the older form of chat.
    Completions,
    /// `/responses`.
    Responses,
    /// `/embeddings`.
    Embeddings,
    /// `/messages` of Anthropic.
    Messages,
    /// Any other; only errors and usage are understood.
    Other,
}

impl Call {
    /// Whether its answer can be streamed.
    #[must_use]
    pub const fn can_stream(self) -> bool {
        match self {
            Self::Chat | Self::Completions | Self::Responses | Self::Messages => true,
            Self::Embeddings | Self::Other => false,
        }
    }

    /// Recognises a call by the end of its path; a query is ignored.
    ///
    /// ```
    /// use leasehold_protocol::Call;
    ///
    /// assert_eq!(Call::of_path("/v1/chat/completions"), Call::Chat);
    /// assert_eq!(Call::of_path("/v1/responses/resp_1"), Call::Other);
    /// ```
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        let path = path.trim_end_matches('/');
        let ends = |end: &str| path.ends_with(end);
        if ends("/chat/completions") {
            Self::Chat
        } else if ends("/completions") {
            Self::Completions
        } else if ends("/responses") {
            Self::Responses
        } else if ends("/embeddings") {
            Self::Embeddings
        } else if ends("/messages") {
            Self::Messages
        } else {
            Self::Other
        }
    }

    /// Returns the path below the service's base URL; empty for [`Call::Other`].
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/chat/completions",
            Self::Completions => "/completions",
            Self::Responses => "/responses",
            Self::Embeddings => "/embeddings",
            Self::Messages => "/messages",
            Self::Other => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_recognised_by_its_path() {
        for call in [
            Call::Chat,
            Call::Completions,
            Call::Responses,
            Call::Embeddings,
            Call::Messages,
        ] {
            assert_eq!(
                Call::of_path(&format!("/v1{}?api-version=1", call.path())),
                call
            );
            assert_eq!(Call::of_path(&format!("{}/", call.path())), call);
        }
        for path in [
            "",
            "/v1/models",
            "/v1/messages/count_tokens",
            "/v1/chat/completions/x",
        ] {
            assert_eq!(Call::of_path(path), Call::Other, "{path}");
        }
    }
}
