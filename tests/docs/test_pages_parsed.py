"""The steps that are read from a page."""

from tests.docs.pages import Change, Paste, Write, steps_of

PAGE = """\
# A page

Look:

```bash
echo one
```

```text
one
```

```bash
true
```

**`notes/draft.yaml`**

```yaml
name: Draft
```

**`notes/draft.yaml`**

```diff
-name: Draft
+name: Final
 # the end
```

- In a list:

  ```bash
  echo two
  ```

  ```text
  two
  ```

```json
{"an": "illustration"}
```
"""


def test_blocks_become_steps_in_their_order() -> None:
    assert steps_of(PAGE) == [
        Paste(5, "echo one\n", "one\n"),
        Paste(13, "true\n", ""),
        Write(19, "notes/draft.yaml", "name: Draft\n"),
        Change(25, "notes/draft.yaml", "name: Draft\n# the end\n", "name: Final\n# the end\n"),
        Paste(33, "echo two\n", "two\n"),
    ]
