"""Which scripts are still in the old form.

An old script's repeated blocks are compared with the frozen copies in old_form/ instead of with
their owners. The list ends empty.
"""

OLD_FORM = {
    "microquant",
}
