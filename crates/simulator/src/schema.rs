//! A small valid instance of a JSON Schema, filled from the user's words where they fit.

use serde_json::{Map, Value, json};

/// Nesting of an instance: recursive schemas end here.
const DEPTH_MAX: usize = 24;
/// Values of an instance: `minItems` of a hostile schema ends here.
const VALUES_MAX: usize = 4_096;

/// An instance of `schema`. `place` is the pick among several places that the text names.
pub(crate) fn instance(schema: &Value, text: &str, pick: usize) -> Value {
    let mut maker = Maker {
        root: schema,
        text,
        pick,
        values: 0,
    };
    maker.make(schema, "", 0)
}

/// Places that a text names: capitalised words after "in", "for", "at", "near", "to" or "from".
pub(crate) fn places(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open = false;
    let mut joined = false;
    for word in text.split_whitespace() {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let capital = bare.chars().next().is_some_and(char::is_uppercase);
        match (open, capital, bare) {
            (true, true, _) if joined => {
                if let Some(last) = found.last_mut() {
                    last.push(' ');
                    last.push_str(bare);
                }
            }
            (true, true, _) => found.push(bare.to_owned()),
            (_, false, "in" | "for" | "at" | "near" | "to" | "from") => open = true,
            (true, false, "and" | "or") => {}
            _ => open = false,
        }
        joined = open && capital && word.ends_with(char::is_alphanumeric);
    }
    found
}

struct Maker<'a> {
    root: &'a Value,
    text: &'a str,
    pick: usize,
    values: usize,
}

impl Maker<'_> {
    fn make(&mut self, schema: &Value, name: &str, depth: usize) -> Value {
        self.values += 1;
        if depth > DEPTH_MAX || self.values > VALUES_MAX {
            return Value::Null;
        }
        if let Some(target) = schema["$ref"]
            .as_str()
            .and_then(|path| path.strip_prefix('#'))
        {
            let root = self.root;
            return root
                .pointer(target)
                .map_or(Value::Null, |found| self.make(found, name, depth + 1));
        }
        if let Some(value) = schema.get("const").or_else(|| schema.get("default")) {
            return value.clone();
        }
        if let Some(options) = schema["enum"].as_array() {
            return self.choose(options);
        }
        for several in ["anyOf", "oneOf", "allOf"] {
            if let Some(first) = schema[several].as_array().and_then(|list| list.first()) {
                return self.make(first, name, depth + 1);
            }
        }
        match kind(schema) {
            "object" => self.object(schema, depth),
            "array" => self.array(schema, name, depth),
            "string" => Value::String(self.string(schema, name)),
            "integer" => json!(self.number(schema).ceil() as i64),
            "number" => json!(self.number(schema)),
            "boolean" => Value::Bool(true),
            _ => Value::Null,
        }
    }

    fn object(&mut self, schema: &Value, depth: usize) -> Value {
        let mut object = Map::new();
        let required: Vec<&str> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            if required.is_empty() || required.contains(&name.as_str()) {
                let value = self.make(property, name, depth + 1);
                object.insert(name.clone(), value);
            }
        }
        for name in required {
            if !object.contains_key(name) {
                object.insert(name.to_owned(), Value::String("simulated".to_owned()));
            }
        }
        Value::Object(object)
    }

    fn array(&mut self, schema: &Value, name: &str, depth: usize) -> Value {
        let least = schema["minItems"].as_u64().unwrap_or(1).max(1);
        let most = schema["maxItems"].as_u64().unwrap_or(u64::MAX);
        let length = usize::try_from(least.min(most))
            .unwrap_or(VALUES_MAX)
            .min(VALUES_MAX);
        let mut items = Vec::new();
        while items.len() < length && self.values <= VALUES_MAX {
            items.push(self.make(&schema["items"], name, depth + 1));
        }
        Value::Array(items)
    }

    fn string(&self, schema: &Value, name: &str) -> String {
        let text = match schema["format"].as_str() {
            Some("date") => "2026-01-01".to_owned(),
            Some("time") => "12:00:00Z".to_owned(),
            Some("date-time") => "2026-01-01T12:00:00Z".to_owned(),
            Some("email") => "simulated@example.com".to_owned(),
            Some("uri" | "url") => "https://example.com/simulated".to_owned(),
            Some("uuid") => "00000000-0000-4000-8000-000000000000".to_owned(),
            _ => self.words(name),
        };
        let most = usize::try_from(schema["maxLength"].as_u64().unwrap_or(2_000)).unwrap_or(2_000);
        let least = usize::try_from(schema["minLength"].as_u64().unwrap_or(0))
            .unwrap_or(0)
            .min(2_000);
        let mut fitted: String = text.chars().take(most).collect();
        while fitted.chars().count() < least {
            fitted.push('x');
        }
        fitted
    }

    fn words(&self, name: &str) -> String {
        let name = name.to_ascii_lowercase();
        let has = |hints: &[&str]| hints.iter().any(|hint| name.contains(hint));
        let places = places(self.text);
        let quoted = self
            .text
            .split('"')
            .nth(1)
            .filter(|_| self.text.matches('"').count() >= 2);
        if has(&[
            "city",
            "location",
            "place",
            "town",
            "country",
            "destination",
            "origin",
        ]) && !places.is_empty()
        {
            return places[self.pick % places.len()].clone();
        }
        match quoted {
            Some(quoted) => quoted.to_owned(),
            None if has(&[
                "query", "question", "text", "message", "prompt", "input", "search",
            ]) =>
            {
                self.text.to_owned()
            }
            None if has(&["email"]) => "simulated@example.com".to_owned(),
            None if has(&["date", "day"]) => "2026-01-01".to_owned(),
            None => "simulated".to_owned(),
        }
    }

    fn number(&self, schema: &Value) -> f64 {
        let said = self
            .text
            .split(|c: char| !(c.is_ascii_digit() || c == '.'))
            .filter_map(|word| word.trim_matches('.').parse::<f64>().ok())
            .find(|number| number.is_finite() && *number < 1e15);
        let least = schema["minimum"]
            .as_f64()
            .or_else(|| schema["exclusiveMinimum"].as_f64().map(|bound| bound + 1.0));
        let most = schema["maximum"]
            .as_f64()
            .or_else(|| schema["exclusiveMaximum"].as_f64().map(|bound| bound - 1.0));
        let number = said.unwrap_or(1.0);
        let raised = least.map_or(number, |bound| number.max(bound));
        most.map_or(raised, |bound| raised.min(bound))
    }

    fn choose(&self, options: &[Value]) -> Value {
        let lower = self.text.to_lowercase();
        let said = options.iter().find(|option| {
            option
                .as_str()
                .is_some_and(|text| !text.is_empty() && lower.contains(&text.to_lowercase()))
        });
        said.or_else(|| options.first())
            .cloned()
            .unwrap_or(Value::Null)
    }
}

fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::String(kind) => kind,
        Value::Array(kinds) => kinds
            .iter()
            .filter_map(Value::as_str)
            .find(|kind| *kind != "null")
            .unwrap_or("null"),
        _ if schema.get("properties").is_some() => "object",
        _ if schema.get("items").is_some() => "array",
        _ => "string",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_from_the_words_of_the_user() {
        let schema = json!({
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
                "note": {"type": ["string", "null"]},
                "skipped": {"type": "string"}
            },
            "required": ["city", "unit", "days", "note"]
        });
        let text = "What is the weather in New York in fahrenheit for 3 days?";
        assert_eq!(
            instance(&schema, text, 0),
            json!({"city": "New York", "unit": "fahrenheit", "days": 3, "note": "simulated"})
        );
    }

    #[test]
    fn places_are_separated() {
        assert_eq!(
            places("Weather in Paris, Rome and San Francisco, please"),
            ["Paris", "Rome", "San Francisco"]
        );
        assert!(places("what is this").is_empty());
    }

    #[test]
    fn references_and_recursion_end() {
        let schema = json!({
            "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}},
            "$ref": "#/$defs/node"
        });
        assert!(instance(&schema, "", 0).is_object());
        let bomb = json!({"type": "array", "minItems": 1e9 as u64, "items": {"type": "integer"}});
        assert!(instance(&bomb, "", 0).as_array().unwrap().len() <= VALUES_MAX);
    }

    #[test]
    fn bounds_hold() {
        let schema = json!({"type": "string", "minLength": 12, "maxLength": 12});
        assert_eq!(instance(&schema, "", 0).as_str().unwrap().len(), 12);
        let schema = json!({"type": "number", "exclusiveMinimum": 10});
        assert!(instance(&schema, "2", 0).as_f64().unwrap() > 10.0);
    }
}
