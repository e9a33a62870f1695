/* json.h: texts and lines of JSON on stdout. */
#ifndef PROBE_JSON_H
#define PROBE_JSON_H

/* Print a text as a JSON string; NULL as null. */
void json_text(const char *text);
/* End a line and hand it over: readers wait for single lines. */
void json_end_line(void);

#endif /* PROBE_JSON_H */
