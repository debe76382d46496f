//! A wish that is one word or a map with more: `driver: absent`, `driver: { package: ... }`. Errors inside
//! the map keep their place and their suggestions, which serde's own untagged enums throw away.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::marker::PhantomData;

/// One word of `W`, or a map of `S`.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum WordOr<W, S> {
    /// The word.
    Word(W),
    /// The map.
    Map(S),
}

impl<'de, W: Deserialize<'de>, S: Deserialize<'de>> Deserialize<'de> for WordOr<W, S> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Visitor<W, S>(PhantomData<(W, S)>);
        impl<'de, W: Deserialize<'de>, S: Deserialize<'de>> de::Visitor<'de> for Visitor<W, S> {
            type Value = WordOr<W, S>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("one word, or keys and values")
            }
            fn visit_str<E: de::Error>(self, word: &str) -> Result<Self::Value, E> {
                // Which words there are is said, and none is suggested: the nearest one to a slip may be
                // `absent`.
                W::deserialize(StrDeserializer::<de::value::Error>::new(word)).map(WordOr::Word).map_err(
                    |e| {
                        let words = e
                            .to_string()
                            .split_once("expected ")
                            .map_or(String::new(), |(_, words)| words.replace("one of ", ""));
                        E::custom(format!(
                            "`{word}`: {words}, or keys and values (`{{ key: value }}`) are expected"
                        ))
                    },
                )
            }
            fn visit_map<M: de::MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
                S::deserialize(MapAccessDeserializer::new(map)).map(WordOr::Map)
            }
        }
        input.deserialize_any(Visitor(PhantomData))
    }
}

impl<W: JsonSchema, S: JsonSchema> JsonSchema for WordOr<W, S> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("{}Or{}", W::schema_name(), S::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (word, map) = (generator.subschema_for::<W>(), generator.subschema_for::<S>());
        json_schema!({ "anyOf": [word, map] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Debug)]
    #[serde(rename_all = "kebab-case")]
    enum Word {
        Absent,
    }

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Map {
        #[expect(dead_code, reason = "only its name is looked at")]
        package: u32,
    }

    #[test]
    fn errors_are_those_of_the_part_that_was_meant() {
        let read = |text: &str| serde_json::from_str::<WordOr<Word, Map>>(text).map_err(|e| e.to_string());
        assert!(
            matches!(read("\"absent\""), Ok(WordOr::Word(Word::Absent)))
                && matches!(read("{\"package\": 1}"), Ok(WordOr::Map(_)))
        );
        assert!(read("{\"packge\": 1}").unwrap_err().contains("expected `package`"));
        assert!(read("\"abset\"").unwrap_err().starts_with("`abset`: `absent`, or keys and values"));
        assert!(read("7").unwrap_err().contains("one word, or keys and values"));
    }
}
