//! Differences between two JSON documents.

use serde_json::{Map, Value};

/// Returns the merge patch (RFC 7396) that makes `to` of `from`; `None` if they are equal.
///
/// `to` has no nulls in objects, because a patch says by null what is gone. O(size of both).
pub(super) fn between(from: &Value, to: &Value) -> Option<Value> {
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => {
            let mut patch = Map::new();
            for gone in from.keys().filter(|name| !to.contains_key(*name)) {
                patch.insert(gone.clone(), Value::Null);
            }
            for (name, value) in to {
                let changed = match from.get(name) {
                    Some(known) => between(known, value),
                    None => Some(value.clone()),
                };
                if let Some(changed) = changed {
                    patch.insert(name.clone(), changed);
                }
            }
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        _ if from == to => None,
        _ => Some(to.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Applies a patch, as RFC 7396 has it.
    fn apply(to: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else {
            *to = patch.clone();
            return;
        };
        if !to.is_object() {
            *to = json!({});
        }
        let fields = to.as_object_mut().unwrap();
        for (name, value) in patch {
            if value.is_null() {
                fields.remove(name);
            } else {
                apply(fields.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0..3_u8).prop_map(Value::from),
            prop::collection::vec(0..2_u8, 0..2).prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 3, |inner| {
            let fields = prop::collection::btree_map("[abc]", inner, 0..3);
            fields.prop_map(|fields| Value::Object(fields.into_iter().collect()))
        })
    }

    proptest! {
        #[test]
        fn a_patch_makes_the_one_of_the_other(from in documents(), to in documents()) {
            let mut made = from.clone();
            match between(&from, &to) {
                Some(patch) => apply(&mut made, &patch),
                None => prop_assert_eq!(&from, &to),
            }
            prop_assert_eq!(made, to);
        }
    }

    #[test]
    fn a_patch_has_only_what_has_changed() {
        let from = json!({"a": {"x": 1, "y": 2}, "b": 3, "c": [1]});
        let to = json!({"a": {"x": 1, "y": 4}, "c": [1], "d": {}});
        let patch = json!({"a": {"y": 4}, "b": null, "d": {}});
        assert_eq!(between(&from, &to), Some(patch));
    }
}
