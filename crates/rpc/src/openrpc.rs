//! The OpenRPC document of the registry.

use serde_json::{Value, json};

use crate::field::Field;
use crate::method::{Effect, METHODS, Row};

/// The document for this version of Partywall.
#[must_use]
pub fn document(version: &str) -> Value {
    let methods: Vec<Value> = METHODS.iter().map(method).collect();
    json!({
        "openrpc": "1.3.2",
        "info": {
            "title": "Partywall",
            "version": version,
            "description": "Methods of one tenant: that of the credential. See docs/rpc.md.",
        },
        "methods": methods,
    })
}

fn method(row: &Row) -> Value {
    let params: Vec<Value> = row.params.iter().map(descriptor).collect();
    let roles: Vec<&str> = row.access.iter().map(|role| role.as_str()).collect();
    json!({
        "name": row.name,
        "summary": row.doc.trim(),
        "paramStructure": "by-name",
        "params": params,
        "result": { "name": "result", "schema": object(row.answer) },
        "x-roles": roles,
        "x-changes": row.effect != Effect::Reads,
    })
}

fn descriptor(field: &Field) -> Value {
    json!({
        "name": field.name,
        "description": field.doc,
        "required": field.required,
        "schema": field.schema(),
    })
}

/// The schema of an answer. Members that an answer always has may be `null` where there is nothing to say.
fn object(fields: &[Field]) -> Value {
    let members: serde_json::Map<String, Value> = fields
        .iter()
        .map(|field| {
            let mut schema = field.schema();
            let kind = schema["type"].take();
            schema["type"] = json!([kind, "null"]);
            schema["description"] = json!(field.doc);
            (field.name.to_owned(), schema)
        })
        .collect();
    let required: Vec<&str> = fields
        .iter()
        .filter(|field| field.required)
        .map(|field| field.name)
        .collect();
    json!({ "type": "object", "properties": members, "required": required })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_stands_in_the_document_with_its_roles() {
        let document = document("0");
        let methods = document["methods"].as_array().unwrap();
        assert_eq!(methods.len(), METHODS.len());
        for (row, method) in METHODS.iter().zip(methods) {
            assert_eq!(method["name"], row.name);
            assert_eq!(
                method["x-roles"].as_array().unwrap().len(),
                row.access.len()
            );
            assert_eq!(method["params"].as_array().unwrap().len(), row.params.len());
        }
    }
}
