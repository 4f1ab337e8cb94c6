//! The head of a line of results: the ids by which its item is found, without its answers.

use crate::input::{ANSWERS, FAILURES, REVIEWS, id_of, no_model_map};
use core::fmt;
use core::marker::PhantomData;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// The ids of a line of results, and whether its answers are by model.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct ResultHead {
    custom_id: Option<Value>,
    id: Option<Value>,
    input_id: Option<Value>,
    output_pred: Option<ByModel<IgnoredAny>>,
    output_review: Option<ByModel<ByModel<IgnoredAny>>>,
    output_error: Option<ByModel<IgnoredAny>>,
}

impl ResultHead {
    /// The id of its item.
    pub(crate) fn id(&self) -> Result<String, String> {
        let fields = [
            (
                ANSWERS,
                self.output_pred.as_ref().is_none_or(Shape::is_right),
            ),
            (
                REVIEWS,
                self.output_review.as_ref().is_none_or(Shape::is_right),
            ),
            (
                FAILURES,
                self.output_error.as_ref().is_none_or(Shape::is_right),
            ),
        ];
        match fields.iter().find(|(_, is_right)| !is_right) {
            Some((name, _)) => Err(no_model_map(name)),
            None => {
                let id = self.id.as_ref().or(self.input_id.as_ref());
                id_of(self.custom_id.as_ref(), id)
            }
        }
    }
}

/// Whether a value is an object with a key for each model, and each of its values has the shape that it should have.
#[derive(Debug)]
struct ByModel<T> {
    is_right: bool,
    values: PhantomData<T>,
}

trait Shape {
    fn is_right(&self) -> bool;
}

impl Shape for IgnoredAny {
    fn is_right(&self) -> bool {
        true
    }
}

impl<T> Shape for ByModel<T> {
    fn is_right(&self) -> bool {
        self.is_right
    }
}

impl<T> ByModel<T> {
    const fn new(is_right: bool) -> Self {
        Self {
            is_right,
            values: PhantomData,
        }
    }
}

impl<'de, T: Deserialize<'de> + Shape> Deserialize<'de> for ByModel<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor(PhantomData))
    }
}

struct ShapeVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de> + Shape> Visitor<'de> for ShapeVisitor<T> {
    type Value = ByModel<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut is_right = true;
        while let Some((_, value)) = map.next_entry::<IgnoredAny, T>()? {
            is_right &= value.is_right();
        }
        Ok(ByModel::new(is_right))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(ByModel::new(false))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(ByModel::new(false))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(ByModel::new(false))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(ByModel::new(false))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(ByModel::new(false))
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(ByModel::new(false))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(ByModel::new(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{check_model_maps, item_id};
    use proptest::prelude::*;
    use serde_json::json;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            Just(json!(true)),
            Just(json!(1)),
            Just(json!(-1)),
            Just(json!(1.5)),
            Just(json!("a"))
        ];
        leaf.prop_recursive(2, 8, 2, |inner| {
            let list = prop::collection::vec(inner.clone(), 0..2);
            let names = prop::sample::select(vec!["a", "b"]);
            let object = prop::collection::btree_map(names, inner, 0..2);
            prop_oneof![
                list.prop_map(Value::from),
                object.prop_map(|fields| {
                    let fields = fields.into_iter();
                    fields
                        .map(|(name, value)| (name.to_owned(), value))
                        .collect()
                })
            ]
        })
    }

    proptest! {
        /// The head of a line is that of its fields; a field that is null is none.
        #[test]
        fn a_head_says_what_the_whole_line_does(fields in prop::collection::btree_map(
            prop::sample::select(vec!["custom_id", "id", "input_id", ANSWERS, REVIEWS, FAILURES, "x"]),
            value(),
            0..4,
        )) {
            let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
            let line: serde_json::Map<_, _> = fields
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            let whole = item_id(&line);
            let maps = check_model_maps(&line);
            let head: ResultHead = serde_json::from_value(line.into()).unwrap();
            match (head.id(), whole, maps) {
                (Ok(id), Ok(expected), Ok(())) => prop_assert_eq!(id, expected),
                (Err(_), expected, maps) => prop_assert!(expected.is_err() || maps.is_err()),
                (Ok(id), expected, maps) => prop_assert!(false, "{} {:?} {:?}", id, expected, maps),
            }
        }
    }
}
