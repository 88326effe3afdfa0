//! `/v1/embeddings`: unit vectors made from words, so that texts with common words lie close.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::answer::Tokens;
use crate::call::{BadRequest, count, digest, tokens};
use crate::directive::{self, Directives};
use crate::models::Model;
use crate::wire_openai;

/// Dimensions unless the caller asks for others.
const DIMENSIONS: u64 = 256;
/// Most dimensions of one vector.
const DIMENSIONS_MAX: u64 = 1_024;
/// Most inputs of one request, as at `OpenAI`.
const INPUTS_MAX: usize = 2_048;

/// What was asked, orders taken out.
#[derive(Debug)]
pub(crate) struct Inputs {
    texts: Vec<String>,
    dimensions: usize,
    as_base64: bool,
    pub(crate) tokens: u64,
}

/// Reads an embeddings request.
pub(crate) fn read(body: &Value, orders: &mut Directives) -> Result<Inputs, BadRequest> {
    let texts: Vec<String> = match &body["input"] {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) if list.first().is_some_and(Value::is_number) => {
            vec![body["input"].to_string()]
        }
        Value::Array(list) => list
            .iter()
            .map(|item| {
                item.as_str()
                    .map_or_else(|| item.to_string(), str::to_owned)
            })
            .collect(),
        _ => {
            return Err(BadRequest::at(
                "input",
                "Missing required parameter: 'input'.",
            ));
        }
    };
    if texts.is_empty() || texts.len() > INPUTS_MAX || texts.iter().any(String::is_empty) {
        return Err(BadRequest::at(
            "input",
            format!("Invalid 'input': 1 to {INPUTS_MAX} texts, none empty."),
        ));
    }
    let dimensions = count(body, "dimensions")?.unwrap_or(DIMENSIONS);
    if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
        return Err(BadRequest::at(
            "dimensions",
            format!("Invalid 'dimensions': 1 to {DIMENSIONS_MAX}."),
        ));
    }
    let as_base64 = match body["encoding_format"].as_str() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(other) => {
            return Err(BadRequest::at(
                "encoding_format",
                format!("Invalid value: '{other}'."),
            ));
        }
    };
    let counted = texts.iter().map(|text| tokens(text)).sum();
    let texts = texts
        .iter()
        .map(|text| directive::take(text, orders))
        .collect::<Result<_, _>>()
        .map_err(BadRequest::new)?;
    Ok(Inputs {
        texts,
        dimensions: usize::try_from(dimensions).unwrap_or(1),
        as_base64,
        tokens: counted,
    })
}

/// The answer.
pub(crate) fn reply(inputs: &Inputs, model: &Model, billed: &Tokens, orders: &Directives) -> Value {
    let data: Vec<Value> = inputs
        .texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let vector = vector(text, inputs.dimensions);
            let embedding = if inputs.as_base64 {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                json!(STANDARD.encode(bytes))
            } else {
                json!(vector)
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let mut reply = json!({"object": "list", "data": data, "model": model.name});
    if let Some(usage) = wire_openai::usage(billed, orders.odd_usage) {
        reply["usage"] = match usage {
            Value::Object(mut usage) => {
                usage.retain(|name, _| name == "prompt_tokens" || name == "total_tokens");
                Value::Object(usage)
            }
            other => other,
        };
    }
    reply
}

fn vector(text: &str, dimensions: usize) -> Vec<f32> {
    let mut sum = vec![0.0_f32; dimensions];
    let lower = text.to_lowercase();
    let words = lower
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty());
    for word in std::iter::once("").chain(words) {
        // The empty word moves every text a little, so that no vector is zero.
        let weight = if word.is_empty() { 0.05 } else { 1.0 };
        let mut state = digest(3, word.as_bytes()) | 1;
        for value in &mut sum {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let step = i16::from_le_bytes([state.to_le_bytes()[3], state.to_le_bytes()[4]]);
            *value += weight * f32::from(step) / 32_768.0;
        }
    }
    let length = sum
        .iter()
        .map(|x| x * x)
        .sum::<f32>()
        .sqrt()
        .max(f32::MIN_POSITIVE);
    sum.iter().map(|x| x / length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &str, b: &str) -> f32 {
        vector(a, 256)
            .iter()
            .zip(vector(b, 256))
            .map(|(x, y)| x * y)
            .sum()
    }

    #[test]
    fn common_words_lie_close() {
        assert!((cosine("the red house", "the red house") - 1.0).abs() < 1e-5);
        assert!(
            cosine("the red house", "a red house")
                > cosine("the red house", "quarterly billing report")
        );
        assert!(vector("", 4).iter().any(|x| *x != 0.0));
    }
}
