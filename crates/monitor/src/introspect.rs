//! `SchemaInfo`: what the answer to `query-qmp-schema` itself looks like.

use crate::schema::{Definition, Described, Kind, Member, Object, Type, Variants, qapi};

qapi! {
    /// The kinds of entities.
    enum SchemaMetaType {
        /// A type that every schema has.
        Builtin = "builtin",
        /// Some strings.
        Enum = "enum",
        /// Several of a type.
        Array = "array",
        /// Named members.
        Object = "object",
        /// A value of one of several types.
        Alternate = "alternate",
        /// A command.
        Command = "command",
        /// An event.
        Event = "event",
    }

    /// What JSON calls a type.
    enum JSONType {
        /// Text.
        String = "string",
        /// A number.
        Number = "number",
        /// A whole number.
        Int = "int",
        /// True or false.
        Boolean = "boolean",
        /// Nothing.
        Null = "null",
        /// Members.
        Object = "object",
        /// Elements.
        Array = "array",
        /// Any of these.
        Value = "value",
    }

    /// A type that every schema has.
    struct SchemaInfoBuiltin {
        json_type = "json-type": JSONType,
    }

    /// A string of an enumeration.
    struct SchemaInfoEnumMember {
        name: String,
        features: Option<Vec<String>>,
    }

    /// An enumeration.
    struct SchemaInfoEnum {
        members: Vec<SchemaInfoEnumMember>,
        values: Vec<String>,
    }

    /// An array.
    struct SchemaInfoArray {
        element_type = "element-type": String,
    }

    /// A member of an object. It is optional if it has a default, which is always `null`: unknown.
    struct SchemaInfoObjectMember {
        name: String,
        kind = "type": String,
        default: Option<serde_json::Value>,
        features: Option<Vec<String>>,
    }

    /// The members that a value of the tag adds.
    struct SchemaInfoObjectVariant {
        case: String,
        kind = "type": String,
    }

    /// An object.
    struct SchemaInfoObject {
        members: Vec<SchemaInfoObjectMember>,
        tag: Option<String>,
        variants: Option<Vec<SchemaInfoObjectVariant>>,
    }

    /// One of the types of an alternate.
    struct SchemaInfoAlternateMember {
        kind = "type": String,
    }

    /// A value of one of several types.
    struct SchemaInfoAlternate {
        members: Vec<SchemaInfoAlternateMember>,
    }

    /// A command.
    struct SchemaInfoCommand {
        arg_type = "arg-type": String,
        ret_type = "ret-type": String,
        allow_oob = "allow-oob": Option<bool>,
    }

    /// An event.
    struct SchemaInfoEvent {
        arg_type = "arg-type": String,
    }
}

/// One entity of a schema.
pub fn schema_info() -> Type {
    Type::Named(|| {
        let member = |name: &'static str, kind, optional| Member {
            name: name.into(),
            kind,
            optional,
        };
        let cases = [
            ("builtin", SchemaInfoBuiltin::describe()),
            ("enum", SchemaInfoEnum::describe()),
            ("array", SchemaInfoArray::describe()),
            ("object", SchemaInfoObject::describe()),
            ("alternate", SchemaInfoAlternate::describe()),
            ("command", SchemaInfoCommand::describe()),
            ("event", SchemaInfoEvent::describe()),
        ];
        Definition {
            name: "SchemaInfo".into(),
            kind: Kind::Object(Object {
                members: vec![
                    member("name", Type::Str, false),
                    member("meta-type", SchemaMetaType::describe(), false),
                    member("features", Vec::<String>::describe(), true),
                ],
                variants: Some(Variants {
                    tag: "meta-type",
                    cases: cases
                        .into_iter()
                        .filter_map(|(case, kind)| Some((case.into(), kind.definition()?)))
                        .collect(),
                }),
                open: false,
            }),
        }
    })
}
