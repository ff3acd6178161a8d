//! What messages look like: types of the wire, each described once.
//!
//! A Rust type that travels in messages is [`Described`]. The macro `qapi!` writes the type, its
//! serialization and its description from one declaration; types whose members are known only from tables, such as
//! the options of block drivers, are described by a function. From descriptions follow the check of arguments with
//! QEMU's messages ([`Type::check`]) and the answer to `query-qmp-schema` ([`Introspection`]), so neither can say
//! something else than the other.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::Error;

/// A type of the wire.
#[derive(Clone, Debug)]
pub enum Type {
    /// A string.
    Str,
    /// A whole number within a range.
    Int(IntRange),
    /// Any number.
    Number,
    /// `true` or `false`.
    Bool,
    /// Only `null`.
    Null,
    /// Anything.
    Any,
    /// Several of a type.
    Array(Box<Type>),
    /// A type with a name. A function, because types may contain themselves.
    Named(fn() -> Definition),
    /// A type with a name, made from a table.
    Made(Box<Definition>),
}

/// The range of a whole number.
#[derive(Clone, Copy, Debug)]
pub struct IntRange {
    /// What QEMU calls it.
    pub name: &'static str,
    /// The least.
    pub min: i64,
    /// The most.
    pub max: u64,
}

/// A type with a name.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Unique among the types.
    pub name: Cow<'static, str>,
    /// What it is.
    pub kind: Kind,
}

/// What a named type is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// One of these strings.
    Enum(Vec<Cow<'static, str>>),
    /// A value of one of these types.
    Alternate(Vec<Type>),
    /// An object.
    Object(Object),
}

/// The members of an object.
#[derive(Clone, Debug, Default)]
pub struct Object {
    /// The members.
    pub members: Vec<Member>,
    /// Members that depend on another member.
    pub variants: Option<Variants>,
    /// There may be others, for the command itself to judge.
    pub open: bool,
}

/// One member.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: Cow<'static, str>,
    /// Its type.
    pub kind: Type,
    /// It may be absent.
    pub optional: bool,
}

/// The members that follow from the value of another one.
#[derive(Clone, Debug)]
pub struct Variants {
    /// The member that decides.
    pub tag: &'static str,
    /// Its values, with the object type that each adds.
    pub cases: Vec<(Cow<'static, str>, Definition)>,
}

/// A type that travels in messages.
pub trait Described {
    /// A member of this type may be absent.
    const OPTIONAL: bool = false;

    /// What it looks like.
    fn describe() -> Type;

    /// A member with this value is left out.
    fn is_absent(&self) -> bool {
        false
    }
}

macro_rules! plain {
    ($($rust:ty => $kind:expr),* $(,)?) => { $(
        impl Described for $rust {
            fn describe() -> Type {
                $kind
            }
        }
    )* };
}

const fn int(name: &'static str, min: i64, max: u64) -> Type {
    Type::Int(IntRange { name, min, max })
}

plain! {
    String => Type::Str,
    bool => Type::Bool,
    f64 => Type::Number,
    Value => Type::Any,
    u8 => int("uint8_t", 0, 0xff),
    u16 => int("uint16_t", 0, 0xffff),
    u32 => int("uint32_t", 0, 0xffff_ffff),
    u64 => int("uint64_t", 0, u64::MAX),
    i64 => int("integer", i64::MIN, i64::MAX.unsigned_abs()),
}

impl<T: Described> Described for Option<T> {
    const OPTIONAL: bool = true;

    fn describe() -> Type {
        T::describe()
    }

    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

impl<T: Described> Described for Vec<T> {
    fn describe() -> Type {
        Type::Array(Box::new(T::describe()))
    }
}

impl<T: Described> Described for Box<T> {
    fn describe() -> Type {
        T::describe()
    }
}

/// Declares a type that travels in messages.
///
/// A structure is an object; a member that is an `Option` may be absent, and `= "x-y"` gives a member a name that Rust
/// cannot. `..field: Other` at its beginning includes the members of another one. An enumeration is one of some strings.
macro_rules! qapi {
    () => {};
    ($(#[$meta:meta])* struct $name:ident {
        $(..$base:ident: $included:ty,)?
        $($(#[$inner:meta])* $field:ident $(= $wire:literal)?: $kind:ty),* $(,)?
    } $($rest:tt)*) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[allow(missing_docs, reason = "the members' names are the protocol's")]
        pub struct $name {
            $(
                #[serde(flatten)]
                pub $base: $included,
            )?
            $(
                $(#[$inner])*
                $(#[serde(rename = $wire)])?
                #[serde(skip_serializing_if = "crate::schema::Described::is_absent")]
                pub $field: $kind,
            )*
        }

        impl $crate::schema::Described for $name {
            fn describe() -> $crate::schema::Type {
                $crate::schema::Type::Named(|| $crate::schema::Definition {
                    name: stringify!($name).into(),
                    kind: $crate::schema::Kind::Object($crate::schema::Object {
                        members: [
                            $($crate::schema::members::<$included>(),)?
                            vec![$($crate::schema::Member {
                                name: $crate::schema::qapi!(@name $field $($wire)?).into(),
                                kind: <$kind as $crate::schema::Described>::describe(),
                                optional: <$kind as $crate::schema::Described>::OPTIONAL,
                            }),*],
                        ].concat(),
                        ..Default::default()
                    }),
                })
            }
        }
        $crate::schema::qapi! { $($rest)* }
    };
    ($(#[$meta:meta])* enum $name:ident {
        $($(#[$inner:meta])* $variant:ident = $wire:literal),* $(,)?
    } $($rest:tt)*) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$inner])* #[serde(rename = $wire)] $variant,)*
        }

        impl $crate::schema::Described for $name {
            fn describe() -> $crate::schema::Type {
                $crate::schema::Type::Named(|| $crate::schema::Definition {
                    name: stringify!($name).into(),
                    kind: $crate::schema::Kind::Enum(vec![$($wire.into()),*]),
                })
            }
        }
        $crate::schema::qapi! { $($rest)* }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $wire:literal) => { $wire };
}
pub(crate) use qapi;

/// The members of an object type.
pub(crate) fn members<T: Described>() -> Vec<Member> {
    match T::describe().definition().map(|found| found.kind) {
        Some(Kind::Object(object)) => object.members,
        _ => Vec::new(),
    }
}

qapi! {
    /// Nothing: the arguments of a command that takes none, and the answer of one that has nothing to say.
    #[derive(Default)]
    struct Empty {}
}

impl Type {
    /// Refuses what is not of this type, with QEMU's words. `name` is the argument, for messages.
    pub fn check(&self, name: &str, value: &Value) -> Result<(), Error> {
        let wrong = |expected: &str| {
            Err(Error::generic(format!(
                "Invalid parameter type for '{name}', expected: {expected}"
            )))
        };
        match (self, value) {
            (Type::Any, _)
            | (Type::Str, Value::String(_))
            | (Type::Bool, Value::Bool(_))
            | (Type::Number, Value::Number(_))
            | (Type::Null, Value::Null) => Ok(()),
            (Type::Int(range), Value::Number(number)) if number.is_i64() || number.is_u64() => {
                let fits = match (number.as_i64(), number.as_u64()) {
                    (Some(value), _) if value < 0 => value >= range.min,
                    (_, Some(value)) => value <= range.max,
                    _ => false,
                };
                match fits {
                    true => Ok(()),
                    false => Err(Error::generic(format!(
                        "Parameter '{name}' expects {}",
                        range.name
                    ))),
                }
            }
            (Type::Array(element), Value::Array(values)) => {
                (0..).zip(values).try_for_each(|(i, value): (usize, _)| {
                    element.check(&format!("{name}[{i}]"), value)
                })
            }
            (Type::Named(_) | Type::Made(_), value) => {
                let Some(definition) = self.definition() else {
                    return Ok(());
                };
                match (&definition.kind, value) {
                    (Kind::Object(object), Value::Object(members)) => object.check(name, members),
                    (Kind::Object(_), _) => wrong("object"),
                    (Kind::Enum(words), Value::String(text)) => {
                        match words.iter().any(|w| w == text) {
                            true => Ok(()),
                            false => Err(not_accepted(name, text, words)),
                        }
                    }
                    (Kind::Enum(_), _) => wrong("string"),
                    (Kind::Alternate(types), value) => {
                        match types.iter().find(|kind| kind.is_like(value)) {
                            Some(kind) => kind.check(name, value),
                            None => wrong(&definition.name),
                        }
                    }
                }
            }
            (Type::Str, _) => wrong("string"),
            (Type::Int(_), _) => wrong("integer"),
            (Type::Number, _) => wrong("number"),
            (Type::Bool, _) => wrong("boolean"),
            (Type::Null, _) => wrong("null"),
            (Type::Array(_), _) => wrong("array"),
        }
    }

    /// The kind of JSON is right, whatever the value.
    fn is_like(&self, value: &Value) -> bool {
        match self {
            Type::Str => value.is_string(),
            Type::Int(_) => value.is_i64() || value.is_u64(),
            Type::Number => value.is_number(),
            Type::Bool => value.is_boolean(),
            Type::Null => value.is_null(),
            Type::Any => true,
            Type::Array(_) => value.is_array(),
            Type::Named(_) | Type::Made(_) => match self.definition().map(|found| found.kind) {
                Some(Kind::Enum(_)) => value.is_string(),
                Some(Kind::Object(_)) => value.is_object(),
                Some(Kind::Alternate(types)) => types.iter().any(|kind| kind.is_like(value)),
                None => false,
            },
        }
    }

    /// What stands behind the name, if it has one.
    pub fn definition(&self) -> Option<Definition> {
        match self {
            Type::Named(definition) => Some(definition()),
            Type::Made(definition) => Some((**definition).clone()),
            _ => None,
        }
    }
}

impl Object {
    /// Refuses arguments that are missing, of the wrong type, or too many; in this order, as QEMU does.
    pub fn check(&self, name: &str, values: &serde_json::Map<String, Value>) -> Result<(), Error> {
        let path = |member: &str| match name {
            "" => member.to_owned(),
            _ => format!("{name}.{member}"),
        };
        let mut known: Vec<Member> = Vec::new();
        let mut add = |members: &[Member]| {
            for member in members {
                let path = path(&member.name);
                match values.get(&*member.name) {
                    Some(value) => member.kind.check(&path, value)?,
                    None if member.optional => {}
                    None => {
                        return Err(Error::generic(format!("Parameter '{path}' is missing")));
                    }
                }
            }
            known.extend_from_slice(members);
            Ok(())
        };
        add(&self.members)?;
        let mut open = self.open;
        if let Some(variants) = &self.variants {
            let tag = values.get(variants.tag).and_then(Value::as_str);
            let case = variants
                .cases
                .iter()
                .find(|(value, _)| Some(&**value) == tag);
            if let Some((_, definition)) = case
                && let Kind::Object(object) = &definition.kind
            {
                add(&object.members)?;
                open |= object.open;
            }
        }
        let stranger = values
            .keys()
            .find(|key| !known.iter().any(|member| member.name == **key));
        match stranger {
            Some(key) if !open => Err(Error::generic(format!(
                "Parameter '{}' is unexpected",
                path(key)
            ))),
            _ => Ok(()),
        }
    }
}

/// The message for a word that is not one of those that are expected.
fn not_accepted(name: &str, text: &str, words: &[Cow<'static, str>]) -> Error {
    Error::generic(format!(
        "Parameter '{name}' does not accept value '{text}' (there are: {})",
        words.join(", ")
    ))
}

/// The types that are reachable from some, in the form of `SchemaInfo`.
#[derive(Debug, Default)]
pub struct Introspection {
    entries: BTreeMap<String, Value>,
}

impl Introspection {
    /// Adds a type and what it is made of; returns its name.
    pub fn add(&mut self, kind: &Type) -> String {
        match kind {
            Type::Str => self.add_builtin("str", "string"),
            Type::Int(_) => self.add_builtin("int", "int"),
            Type::Number => self.add_builtin("number", "number"),
            Type::Bool => self.add_builtin("bool", "boolean"),
            Type::Null => self.add_builtin("null", "null"),
            Type::Any => self.add_builtin("any", "value"),
            Type::Array(element) => {
                let element = self.add(element);
                let name = format!("[{element}]");
                let entry = json!({"name": name, "meta-type": "array", "element-type": element});
                self.entries.insert(name.clone(), entry);
                name
            }
            Type::Named(definition) => self.add_definition(definition()),
            Type::Made(definition) => self.add_definition((**definition).clone()),
        }
    }

    fn add_builtin(&mut self, name: &str, json: &str) -> String {
        let entry = json!({"name": name, "meta-type": "builtin", "json-type": json});
        self.entries.insert(name.to_owned(), entry);
        name.to_owned()
    }

    fn add_definition(&mut self, definition: Definition) -> String {
        let name = definition.name.into_owned();
        if !self.entries.contains_key(&name) {
            // First the place, so that a type that contains itself ends.
            self.entries.insert(name.clone(), Value::Null);
            let entry = self.define(&name, definition.kind);
            self.entries.insert(name.clone(), entry);
        }
        name
    }

    fn define(&mut self, name: &str, kind: Kind) -> Value {
        match kind {
            Kind::Enum(words) => {
                let members: Vec<_> = words.iter().map(|word| json!({"name": word})).collect();
                json!({"name": name, "meta-type": "enum", "members": members, "values": words})
            }
            Kind::Alternate(types) => {
                let members: Vec<_> = types
                    .iter()
                    .map(|kind| json!({"type": self.add(kind)}))
                    .collect();
                json!({"name": name, "meta-type": "alternate", "members": members})
            }
            Kind::Object(object) => {
                let mut members = Vec::new();
                for member in &object.members {
                    let mut entry = json!({"name": member.name, "type": self.add(&member.kind)});
                    if member.optional
                        && let Some(entry) = entry.as_object_mut()
                    {
                        entry.insert("default".to_owned(), Value::Null);
                    }
                    members.push(entry);
                }
                let mut entry = json!({"name": name, "meta-type": "object", "members": members});
                if let (Some(variants), Some(entry)) = (object.variants, entry.as_object_mut()) {
                    let cases: Vec<_> = variants
                        .cases
                        .into_iter()
                        .map(|(case, definition)| {
                            json!({"case": case, "type": self.add_definition(definition)})
                        })
                        .collect();
                    entry.insert("tag".to_owned(), variants.tag.into());
                    entry.insert("variants".to_owned(), cases.into());
                }
                entry
            }
        }
    }

    /// All of them, in the order of their names.
    pub fn into_entries(self) -> impl Iterator<Item = Value> {
        self.entries.into_values()
    }
}
