//! Files as people have them.

use super::*;

#[test]
fn syntax_errors_have_line_and_column() {
    let errors = read("{\n  \"family\": \"f\",\n  \"cpu\" 256\n}").unwrap_err();
    assert_eq!((errors[0].line, errors[0].path.as_str()), (3, ""));
    assert!(!errors[0].message.contains("line"), "{}", errors[0].message);
}

#[test]
fn unknown_member_is_named_where_it_stands() {
    let text = "{\n  \"family\": \"f\",\n  \"containerDefinitions\": [\n    { \"name\": \"c\",\n      \"imagee\": \"x\" }\n  ]\n}";
    let errors = read(text).unwrap_err();
    assert_eq!(errors[0].path, "containerDefinitions[0].imagee");
    assert_eq!((errors[0].line, errors[0].column), (5, 7));
    assert_eq!(errors[0].message, "unknown field `imagee`: did you mean `image`?");
}

#[test]
fn wrong_type_is_named_where_it_stands() {
    let text = "{ \"family\": \"f\",\n \"containerDefinitions\": [{ \"memory\": \"512\" }] }";
    let errors = read(text).unwrap_err();
    assert_eq!((errors[0].path.as_str(), errors[0].line), ("containerDefinitions[0].memory", 2));
    assert_eq!(errors[0].message, "must be an integer, not string \"512\"");
}

#[test]
fn everything_that_does_not_fit_is_told_at_once() {
    let text = r#"{ "taskDefinition": { "family": 7, "volumes": {}, "nonsense": 1, "containerDefinitions": [
        { "name": "a", "essential": "true", "environment": ["A=b", { "name": 1 }], "imagee": "x" },
        3,
        { "memory": 99999999999, "command": [1] } ] } }"#;
    let told: Vec<_> =
        read(text).unwrap_err().into_iter().map(|error| (error.line, error.path, error.message)).collect();
    let line = |line, path: &str, message: &str| (line, path.to_owned(), message.to_owned());
    let mut wanted = vec![
        line(1, "family", "must be a string, not integer 7"),
        line(1, "volumes", "must be a list, not an object"),
        line(1, "nonsense", "unknown field `nonsense`"),
        line(2, "containerDefinitions[0].essential", "must be true or false, not string \"true\""),
        line(2, "containerDefinitions[0].environment[0]", "must be an object, not string \"A=b\""),
        line(2, "containerDefinitions[0].environment[1].name", "must be a string, not integer 1"),
        line(2, "containerDefinitions[0].imagee", "unknown field `imagee`: did you mean `image`?"),
        line(3, "containerDefinitions[1]", "must be an object, not integer 3"),
        line(4, "containerDefinitions[2].memory", "must be an integer of at most 2147483647, not integer 99999999999"),
        line(4, "containerDefinitions[2].command[0]", "must be a string, not integer 1"),
    ];
    let mut sorted = told;
    assert!(sorted.is_sorted_by_key(|(line, ..)| *line), "in the file's order: {sorted:?}");
    wanted.sort();
    sorted.sort();
    assert_eq!(sorted, wanted);
}

#[test]
fn duplicate_member_is_an_error() {
    let errors = read("{ \"family\": \"a\",\n  \"family\": \"b\" }").unwrap_err();
    assert_eq!((errors[0].path.as_str(), errors[0].line, errors[0].column), ("family", 2, 3));
}

#[test]
fn describe_answer_is_read() {
    let text = r#"{ "taskDefinition": {
        "taskDefinitionArn": "arn:aws:ecs:eu-west-1:1:task-definition/f:3", "revision": 3, "status": "ACTIVE",
        "requiresAttributes": [{ "name": "x" }], "compatibilities": ["EC2"], "registeredAt": 1.5, "registeredBy": "me",
        "family": "f", "pidMode": null, "volumes": [],
        "containerDefinitions": [{ "name": "c", "image": "i", "memory": 64, "links": null, "environment": [null] }]
    }, "tags": [] }"#;
    let read = read(text).unwrap();
    assert_eq!(read.request.family.as_deref(), Some("f"));
    assert_eq!(read.warnings.len(), 1);
    assert!(read.warnings[0].contains("taskDefinitionArn, revision, status"));
    assert!(crate::check(&read.request).is_ok());
}

#[test]
fn problems_are_placed() {
    let text =
        "{ \"family\": \"f\", \"containerDefinitions\": [\n  { \"name\": \"c\", \"image\": \"i\", \"memory\": 3 }] }";
    let request = read(text).unwrap().request;
    let problems = crate::check(&request).unwrap_err();
    let placed = place(text, &problems[0]);
    assert_eq!((placed.line, placed.column, placed.path.as_str()), (2, 32, "containerDefinitions[0].memory"));
    // A member that is missing stands where its container does.
    assert_eq!(locate(text, "containerDefinitions[0].healthCheck"), Some((2, 3)));
}

#[test]
fn what_is_no_object_is_refused() {
    assert!(read("[]").unwrap_err()[0].message.contains("object"));
    assert!(read("").is_err());
}

#[test]
fn every_message_survives_its_json() {
    let text = r#"{ "family": "f", "ephemeralStorage": { "sizeInGiB": 21 }, "containerDefinitions": [] }"#;
    let request = read(text).unwrap().request;
    let again = serde_json::to_string(&request).unwrap();
    assert_eq!(read(&again).unwrap().request, request);
}

#[test]
fn a_name_that_is_near_is_offered() {
    let told = |member: &str| {
        let text = format!(r#"{{ "family": "f", "containerDefinitions": [{{ "name": "c", "{member}": 1 }}] }}"#);
        let message = read(&text).unwrap_err()[0].message.clone();
        message.strip_prefix(&format!("unknown field `{member}`")).unwrap().to_owned()
    };
    for (typed, meant) in [
        ("Image", "image"),
        ("enviroment", "environment"),
        ("env", "environment"),
        ("port_mappings", "portMappings"),
        ("healthcheck", "healthCheck"),
        ("logConfig", "logConfiguration"),
        ("dependson", "dependsOn"),
    ] {
        assert_eq!(told(typed), format!(": did you mean `{meant}`?"));
    }
    for typed in ["x", "zzz", "labels-of-mine", ""] {
        assert_eq!(told(typed), "");
    }
}

#[test]
fn a_health_check_that_says_neither_cmd_nor_cmd_shell_is_doubted() {
    let read = |command: &str| {
        let text = format!(
            r#"{{ "family": "f", "containerDefinitions": [{{ "name": "c", "healthCheck": {{ "command": {command} }} }}] }}"#
        );
        super::read(&text).unwrap().warnings
    };
    let told = read(r#"["curl -f localhost || exit 1"]"#);
    assert!(told.len() == 1 && told[0].contains("containerDefinitions[0].healthCheck.command"), "{told:?}");
    assert!(told[0].contains("CMD-SHELL"), "{told:?}");
    for sound in [r#"["CMD", "a"]"#, r#"["CMD-SHELL", "a || exit 1"]"#, "[]"] {
        assert_eq!(read(sound), Vec::<String>::new());
    }
}
