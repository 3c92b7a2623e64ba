//! What an API server keeps: objects with versions, and the history of their changes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::World;

pub const KINDS: [(&str, &str); 3] = [("configmaps", "ConfigMap"), ("pods", "Pod"), ("secrets", "Secret")];
pub const NAMESPACES: [&str; 2] = ["default", "training"];

/// By kind, namespace and name.
pub type Key = (String, String, String);

#[derive(Default)]
pub struct Objects {
    objects: BTreeMap<Key, Value>,
    version: u64,
    /// Every change: its version, `ADDED` ..., its kind, and the object then.
    pub history: Vec<(u64, &'static str, String, Value)>,
    pub forbidden: Option<(String, String)>,
}

/// An answer that is a refusal: status, reason, message.
pub type Refused = (u16, &'static str, String);

impl Objects {
    pub fn of(&self, plural: &str) -> Vec<Value> {
        self.objects
            .iter()
            .filter(|((kind, ..), _)| kind == plural)
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub fn get(&self, key: &Key) -> Result<Value, Refused> {
        let (kind, _, name) = key;
        let missing = || (404, "NotFound", format!("{kind} \"{name}\" not found"));
        self.objects.get(key).cloned().ok_or_else(missing)
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// Those that `selector`, `name=value` with commas between, finds.
    pub fn list(&self, plural: &str, namespace: &str, selector: &str) -> Vec<Value> {
        let here = self.objects.iter().filter(|((kind, space, _), _)| kind == plural && space == namespace);
        here.map(|(_, object)| object.clone()).filter(|object| matches(object, selector)).collect()
    }

    fn record(&mut self, what: &'static str, key: &Key, object: &mut Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.history.push((self.version, what, key.0.clone(), object.clone()));
    }

    fn store(&mut self, what: &'static str, key: Key, mut object: Value) -> Value {
        self.record(what, &key, &mut object);
        self.objects.insert(key, object.clone());
        object
    }

    fn lives(&self, uid: &Value) -> bool {
        self.objects.values().any(|object| object["metadata"]["uid"] == *uid)
    }
}

pub fn matches(object: &Value, selector: &str) -> bool {
    let wanted = selector.split(',').filter_map(|term| term.split_once('='));
    wanted.into_iter().all(|(name, value)| object["metadata"]["labels"][name] == value)
}

/// The object as its type writes it again: what is not a field of the type, or is not of its field's type, is refused.
fn strict<T: DeserializeOwned + Serialize>(object: &Value) -> Result<(), String> {
    let typed: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
    let again = serde_json::to_value(&typed).map_err(|error| error.to_string())?;
    if again == *object { Ok(()) } else { Err(format!("unknown or empty fields: {object} is not {again}")) }
}

impl World {
    pub fn create(&self, namespace: &str, plural: &str, mut object: Value) -> Result<Value, Refused> {
        let checked = match plural {
            "configmaps" => strict::<ConfigMap>(&object),
            "pods" => strict::<Pod>(&object),
            _ => strict::<Secret>(&object),
        };
        checked.map_err(|why| (422, "Invalid", why))?;
        if !NAMESPACES.contains(&namespace) {
            return Err((404, "NotFound", format!("namespaces \"{namespace}\" not found")));
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = (plural.to_owned(), namespace.to_owned(), name.clone());
        let mut objects = self.objects.lock().unwrap();
        if objects.objects.contains_key(&key) {
            return Err((409, "AlreadyExists", format!("{plural} \"{name}\" already exists")));
        }
        let number = objects.version + 1;
        object["metadata"]["namespace"] = json!(namespace);
        object["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{number:012}"));
        object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        if plural == "pods" {
            object["status"] = json!({ "phase": "Pending" });
        }
        let object = objects.store("ADDED", key, object);
        // Whose owner is gone is collected, sooner or later.
        let owner = object["metadata"]["ownerReferences"][0]["uid"].clone();
        let orphan = !owner.is_null() && !objects.lives(&owner);
        drop(objects);
        self.changed();
        if plural == "pods" {
            self.run(&object);
        }
        if orphan {
            let _ = self.delete(namespace, plural, &name);
        }
        Ok(object)
    }

    /// Changes an object, if it is there; its process may have ended after it.
    pub fn change(
        &self,
        namespace: &str,
        plural: &str,
        name: &str,
        uid: &str,
        with: impl FnOnce(&mut Value),
    ) {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let mut objects = self.objects.lock().unwrap();
        let Some(mut object) = objects.objects.get(&key).cloned().filter(|it| it["metadata"]["uid"] == uid)
        else {
            return;
        };
        with(&mut object);
        objects.store("MODIFIED", key, object);
        drop(objects);
        self.changed();
    }

    /// A pod with a process goes when that has ended; what an object owns goes with it.
    pub fn delete(&self, namespace: &str, plural: &str, name: &str) -> Result<Value, Refused> {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let object = self.objects.lock().unwrap().get(&key)?;
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        if plural == "pods" && self.host.process(&uid).is_some() {
            self.change(namespace, plural, name, &uid, |pod| {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            });
            self.host.end(&uid, object["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30));
            // It may have ended meanwhile.
            if self.host.process(&uid).is_none() {
                self.remove(namespace, plural, name, &uid);
            }
            return Ok(object);
        }
        self.remove(namespace, plural, name, &uid);
        Ok(json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" }))
    }

    pub fn remove(&self, namespace: &str, plural: &str, name: &str, uid: &str) {
        let key = (plural.to_owned(), namespace.to_owned(), name.to_owned());
        let mut objects = self.objects.lock().unwrap();
        if objects.objects.get(&key).is_none_or(|object| object["metadata"]["uid"] != uid) {
            return;
        }
        let Some(mut object) = objects.objects.remove(&key) else { return };
        objects.record("DELETED", &key, &mut object);
        let owned = |object: &Value| object["metadata"]["ownerReferences"][0]["uid"] == uid;
        let dependents: Vec<Key> =
            objects.objects.iter().filter(|(_, object)| owned(object)).map(|(key, _)| key.clone()).collect();
        drop(objects);
        self.changed();
        for (plural, namespace, name) in dependents {
            let _ = self.delete(&namespace, &plural, &name);
        }
    }
}
