//! Why a reply ended, in both dialects. The tables are closed: an unknown reason is malformed, for
//! calling an unfinished reply finished would be a lie.

use crate::reply::ReplyError;

/// `OpenAI`'s `finish_reason` for Anthropic's `stop_reason`.
pub(super) fn finish_reason(stop_reason: &str) -> Result<&'static str, ReplyError> {
    match stop_reason {
        "end_turn" | "stop_sequence" => Ok("stop"),
        "max_tokens" | "model_context_window_exceeded" | "pause_turn" => Ok("length"),
        "tool_use" => Ok("tool_calls"),
        "refusal" => Ok("content_filter"),
        _ => Err(ReplyError::Malformed("stop_reason")),
    }
}

/// Anthropic's `stop_reason` for `OpenAI`'s `finish_reason`.
pub(super) fn stop_reason(
    finish_reason: &str,
    refused: bool,
    calls: bool,
) -> Result<&'static str, ReplyError> {
    match finish_reason {
        "stop" | "tool_calls" if refused => Ok("refusal"),
        "stop" if calls => Ok("tool_use"),
        "stop" => Ok("end_turn"),
        "length" => Ok("max_tokens"),
        "tool_calls" => Ok("tool_use"),
        "content_filter" => Ok("refusal"),
        "error" => Err(ReplyError::Upstream),
        _ => Err(ReplyError::Malformed("finish_reason")),
    }
}
